"""Plots of the source's figures: arrays in, a matplotlib Figure out (extra `[plots]`)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num

from jaxnet import _extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lines(
    x: Num[ArrayLike, " n"], curves: Mapping[str, Num[ArrayLike, " n"]], *, xlabel: str, ylabel: str
) -> "Figure":
    """Return one curve per name over the same x, with a legend where there are several."""
    figure, axes = _axes(xlabel, ylabel)
    for label, y in curves.items():
        axes.plot(np.asarray(x), np.asarray(y), label=label)
    if len(curves) > 1:
        axes.legend()
    return figure


def loss_curve(loss: Float[ArrayLike, " steps"], *, window: int = 100) -> "Figure":
    """Return the loss of every step, and its running mean where there are more than `window` steps."""
    loss = np.asarray(loss, float)
    figure, axes = _axes("steps", "loss")
    long = len(loss) > window
    axes.plot(loss, linewidth=0.5, alpha=0.4 if long else 1.0, label="of each batch")
    if long:
        sums = np.cumsum(np.concatenate([[0.0], loss]))
        means = (sums[window:] - sums[:-window]) / window
        axes.plot(np.arange(window - 1, len(loss)), means, label=f"mean of {window} steps")
        axes.legend()
    axes.set_ylim(bottom=0)
    return figure


def accuracy_curves(
    epochs: Num[ArrayLike, " evals"],
    train: Float[ArrayLike, " evals"],
    test: Float[ArrayLike, " evals"] | None = None,
) -> "Figure":
    """Return the accuracy over epochs, training solid and test dashed (source 4.4)."""
    figure, axes = _axes("epochs", "accuracy")
    axes.plot(np.asarray(epochs), np.asarray(train), "-", label="train")
    if test is not None:
        axes.plot(np.asarray(epochs), np.asarray(test), "--", label="test")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    return figure


def accuracy_bands(
    epochs: Num[ArrayLike, " evals"],
    curves: Mapping[str, Float[ArrayLike, "networks evals"]],
    *,
    ylabel: str = "accuracy",
) -> "Figure":
    """Return the mean ± standard deviation over networks, a band per name; NaN counts for nothing."""
    figure, axes = _axes("epochs", ylabel)
    x = np.asarray(epochs)
    for label, networks in curves.items():
        values = np.ma.masked_invalid(np.asarray(networks, float))
        mean = values.mean(axis=0).filled(np.nan)
        axes.plot(x, mean, label=label)
        if len(values) > 1:
            deviation = values.std(axis=0, ddof=1).filled(0.0)
            axes.fill_between(x, mean - deviation, mean + deviation, alpha=0.25, linewidth=0)
    axes.legend(fontsize="small")
    return figure


def step_size_error(
    h: Float[ArrayLike, " n"], error: Float[ArrayLike, " n"], chosen: float | None = None
) -> "Figure":
    """Return the error of a numerical derivative against the step size h, both logarithmic (source 4.2)."""
    figure, axes = _axes("step size h", "relative error")
    axes.loglog(np.asarray(h), np.asarray(error), "o-", markersize=3)
    if chosen is not None:
        axes.axvline(chosen, linestyle=":", color="gray", label=f"h = {chosen:g}")
        axes.legend()
    return figure


def step_choice(
    steps: Float[ArrayLike, " n"], central: Float[ArrayLike, " n"], *, value: float, chosen: float, name: str
) -> "Figure":
    """Return the error of the central difference over its step, with the slopes that make it, and the choice.

    steps, central: the steps and the difference at each; value: what counts as exact; chosen: the finest step
    of the extrapolation that value came from.
    """
    steps, error = np.asarray(steps, float), np.abs(np.asarray(central, float) - value)
    figure, axes = _axes("step", f"error of the central difference at {name}")
    shown = np.isfinite(error) & (error > 0)
    axes.loglog(steps[shown], error[shown], ".-", label="central difference")
    low, high = axes.get_ylim()
    if shown.any():
        # Lines of the two slopes, each through the median of the half of the points where it is the larger.
        best = int(np.argmin(np.where(shown, error, np.inf)))
        halves = (("truncation, ~ h²", 2, shown & (steps > steps[best])),
                  ("round-off, ~ 1/h", -1, shown & (steps < steps[best])))  # fmt: skip
        for label, slope, half in halves:
            if half.any():
                level = np.exp(np.median(np.log(error[half]) - slope * np.log(steps[half])))
                axes.loglog(steps, level * steps**slope, "--", linewidth=1, label=label)
    axes.axvline(chosen, color="gray", linewidth=1, label="chosen step")
    axes.set_ylim(low, high)
    axes.legend()
    return figure


def descent(
    x0: Float[ArrayLike, " n"],
    x1: Float[ArrayLike, " m"],
    values: Float[ArrayLike, "m n"],
    path: Float[ArrayLike, "steps 2"],
) -> "Figure":
    """Return the contours of a function of two variables and the path of a descent on it (source 4.2)."""
    figure, axes = _axes("x0", "x1")
    axes.contour(np.asarray(x0), np.asarray(x1), np.asarray(values), levels=12, linewidths=0.7)
    path = np.asarray(path)
    axes.plot(path[:, 0], path[:, 1], "o-", markersize=4, color="tab:red")
    axes.set_aspect("equal")
    return figure


def images(pixels: Num[ArrayLike, "n d"], labels: Int[ArrayLike, " n"] | Sequence[str]) -> "Figure":
    """Return square grey images in a row, each under its label."""
    pixels = np.asarray(pixels)
    side = round(pixels.shape[1] ** 0.5)
    if side * side != pixels.shape[1]:
        raise ValueError(f"images must be square, got {pixels.shape[1]} pixels each")
    figure = _figure((1.1 * len(pixels), 1.4))
    for index, (image, label) in enumerate(zip(pixels, np.asarray(labels), strict=True)):
        axes = figure.add_subplot(1, len(pixels), index + 1)
        axes.imshow(image.reshape(side, side), cmap="gray_r")
        axes.set_title(str(label))
        axes.set_axis_off()
    return figure


def require() -> None:
    """Raise ImportError where matplotlib is not installed or fails."""
    _extras.require("matplotlib.figure", "plots need", "plots")


def _axes(xlabel: str, ylabel: str) -> "tuple[Figure, Axes]":
    figure = _figure((6.4, 4.0))
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _figure(size: tuple[float, float]) -> "Figure":
    # Not pyplot: a figure that nobody closes must not stay in memory, nor a window open.
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
