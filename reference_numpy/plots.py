"""The two plots of sections 4.2 and 4.4; matplotlib is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .differentiation import func, tangent_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_tangent(f: Callable[..., Any] = func, x: float = 10) -> Figure:
    """A function and its tangent at `x` are drawn over [0, 20) in steps of 0.1 (4.2)."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    xs = np.arange(0.0, 20.0, 0.1)
    axes.plot(xs, f(xs))
    axes.plot(xs, tangent_line(f, x)(xs))
    axes.set(xlabel="x", ylabel="f(x)")
    return figure


def plot_accuracy(train_accuracies: Sequence[float], test_accuracies: Sequence[float]) -> Figure:
    """Training (solid) and test (dashed) accuracy are drawn over epochs (4.4)."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    epochs = np.arange(len(train_accuracies))
    axes.plot(epochs, train_accuracies, "-", label="train acc")
    axes.plot(epochs, test_accuracies, "--", label="test acc")
    axes.set(xlabel="epochs", ylabel="accuracy")
    axes.legend()
    return figure
