"""Plots of the source's figures: arrays in, a matplotlib Figure out (extra `[plots]`)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num

from jaxnet import _extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxnet.gradcheck.locate import Origin
    from jaxnet.training import History


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
    """Return the accuracy over epochs, training solid and test dashed (source 4.4).

    Of the height that the curves have after their first tenth, where one still tells them apart.
    """
    figure, axes = _axes("epochs", "accuracy")
    curves = [np.asarray(curve, float) for curve in (train, test) if curve is not None]
    for curve, (style, label) in zip(curves, (("-", "train"), ("--", "test")), strict=False):
        axes.plot(np.asarray(epochs), curve, style, label=label)
    later = np.concatenate([curve[len(curve) // 10 :] for curve in curves])
    later = later[np.isfinite(later)] if np.isfinite(later).any() else np.array([0.0, 1.0])
    margin = max(0.05 * float(np.ptp(later)), 0.005)
    axes.set_ylim(max(0.0, later.min() - margin), min(1.0, later.max() + margin))
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


def sweep_map(
    rows: Sequence[float],
    columns: Sequence[float],
    scores: Float[ArrayLike, "rows columns"],
    *,
    ylabel: str,
    xlabel: str,
    label: str = "accuracy",
) -> "Figure":
    """Return the score over two hyperparameters as a map, darker where it is higher; NaN is crossed out."""
    found = np.asarray(scores, float)
    figure, axes = _axes(xlabel, ylabel, (2.4 + 0.8 * len(columns), 1.8 + 0.5 * len(rows)))
    image = axes.imshow(found, cmap="Greys", aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    low, high = image.get_clim()
    _numbered(axes, found, np.nan_to_num((found - low) / ((high - low) or 1.0)), "{:.3f}")
    figure.colorbar(image, ax=axes, label=label)
    return figure


def agreement(gradients: Mapping[str, Any]) -> "Figure":
    """Return how far gradients, pytrees alike, are from each other: the largest difference of each two.

    Relative to the largest element of all; as a power of ten, darker where they differ more. One that is
    wrong differs from all others.

    >>> agreement({"by hand": [1.0, 2.0], "jax.grad": [1.0, 2.0], "wrong": [1.0, 2.1]}).axes[0].get_title()
    'largest relative difference'
    """
    import jax

    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in gradients.values()]
    stacked = np.stack([np.asarray(values, float) for values in flat])
    largest = np.abs(stacked).max() or 1.0
    differences = np.abs(stacked[:, None] - stacked[None]).max(axis=2) / largest
    size = 2.6 + 0.9 * len(flat)
    figure, axes = _axes("", "", (size, 0.8 * size))
    shades = np.clip((np.log10(np.maximum(differences, 1e-17)) + 17) / 17, 0, 1)
    axes.imshow(shades, cmap="Greys", vmin=0, vmax=1)
    names = list(gradients)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("largest relative difference")
    _numbered(axes, differences, shades, "{:.0e}")
    return figure


def located(origins: "Sequence[Origin]") -> "Figure":
    """Return the operations in which a derivative goes wrong, as `locate` finds them, in their order."""
    figure = _figure((8.0, 0.8 + 0.9 * max(1, len(origins))))
    axes = figure.subplots()
    axes.axis("off")
    axes.set_title("where the derivative goes wrong" if origins else "no operation is wrong", loc="left")
    for index, origin in enumerate(origins):
        height = 1 - (index + 0.5) / len(origins)
        named = f"{origin.operation}{f' ({origin.name})' if origin.name else ''}: {origin.kind}"
        axes.text(0, height, f"{origin.where}, in {origin.function}", family="monospace", va="bottom")
        axes.text(0.03, height, f"{named}. {origin.detail}", va="top", fontsize="small", wrap=True)
        if index:
            axes.axhline(1 - index / len(origins), color="gray", linewidth=0.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


def _numbered(axes: "Axes", values: np.ndarray, shades: np.ndarray, form: str) -> None:
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        text = "0" if value == 0 else form.format(value) if np.isfinite(value) else "x"
        colour = "white" if shades[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")


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
    axes.axvline(chosen, color="gray", linewidth=1, label="chosen step, of the extrapolation")
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


def learning_curves(runs: Mapping[str, "History"], metric: str = "accuracy") -> "Figure":
    """Return loss and metric over the steps of one run or several, each a colour, train dashed, test solid.

    The loss is the running mean over a hundredth of the steps; the axes are cut to where the curves go after
    a tenth of the run.
    """
    figure = _figure((9.0, 3.6))
    left, right = figure.subplots(1, 2)
    bounds: list[list[np.ndarray]] = [[], []]
    for index, (name, history) in enumerate(runs.items()):
        colour, loss = f"C{index}", np.asarray(history.loss, float)
        window = max(1, len(loss) // 100)
        means = np.convolve(loss, np.full(window, 1 / window), "valid")
        left.plot(np.arange(window - 1, len(loss)), means, color=colour, label=name, linewidth=1.2)
        bounds[0].append(_later(means))
        for part, style in (("train", "--"), ("validation", ":"), ("test", "-")):
            if metric in getattr(history, part):
                values = np.asarray(getattr(history, part)[metric], float)
                label = part if len(runs) == 1 else f"{name}, {part}"
                right.plot(history.eval_step, values, style, color=colour, label=label, linewidth=1.2)
                bounds[1].append(_later(values))
    for axes, shown, ylabel in ((left, bounds[0], "loss"), (right, bounds[1], metric)):
        axes.set(xlabel="steps", ylabel=ylabel)
        finite = np.concatenate([values[np.isfinite(values)] for values in shown] or [np.zeros(0)])
        if finite.size and finite.min() < finite.max():
            margin = (finite.max() - finite.min()) / 20
            axes.set_ylim(finite.min() - margin, finite.max() + margin)
        axes.grid(alpha=0.3)
    right.legend(fontsize="small")
    if len(runs) > 1:
        left.legend(fontsize="small")
    return figure


def _later(values: np.ndarray) -> np.ndarray:
    return values[min(len(values) - 1, max(1, len(values) // 10)) :]


def confusion_matrix(
    matrix: Num[ArrayLike, "classes classes"], names: Sequence[str] | None = None
) -> "Figure":
    """Return how many examples of each class (row) were taken for each class (column), as `metrics` has it.

    The darker, the larger is its share of the row, by its square root, so that few are seen too; beyond 20
    classes there are no numbers.
    """
    counts = np.asarray(matrix)
    labels = [str(index) for index in range(len(counts))] if names is None else list(names)
    size = min(10.0, 2.0 + 0.42 * len(counts))
    figure, axes = _axes("taken for", "is", (size, size))
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 2 else 0)
    axes.set_yticks(range(len(labels)), labels)
    for row, column in np.argwhere(counts > 0) if len(counts) <= 20 else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:g}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    return figure


def images(
    pixels: Num[ArrayLike, "n d"], labels: Int[ArrayLike, " n"] | Sequence[str], columns: int | None = None
) -> "Figure":
    """Return square images, grey or of three colours in 0..1, each under its label, by default in a row."""
    shown = _squares(pixels)
    columns = len(shown) if columns is None else columns
    figure = _figure((1.1 * columns, 1.4 * -(-len(shown) // columns)))
    for index, (image, label) in enumerate(zip(shown, np.asarray(labels), strict=True)):
        axes = figure.add_subplot(-(-len(shown) // columns), columns, index + 1)
        axes.imshow(image, cmap="gray_r")
        axes.set_title(str(label), fontsize=None if columns == len(shown) else "small")
        axes.set_axis_off()
    return figure


def weights(weight: Float[ArrayLike, "inputs units"], columns: int = 10) -> "Figure":
    """Return what each unit of a first layer looks for, as square images: white adds to it, black takes away.

    weight: as in `Dense`, [inputs, units]. At most the first 100 units are shown, all in one scale. Raises
    ValueError where the inputs are no square.
    """
    shown = _squares(np.asarray(weight).T[:100])
    limit = float(np.abs(shown).max()) or 1.0
    rows = -(-len(shown) // columns)
    figure = _figure((0.75 * columns + 1.2, 0.75 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for image, axes in zip(shown, grid.flat, strict=False):
        if image.ndim == 3:
            axes.imshow((image / limit + 1) / 2)
        else:
            drawn = axes.imshow(image, cmap="gray", vmin=-limit, vmax=limit)
    if shown.ndim == 3:
        figure.colorbar(drawn, ax=grid, label="weight", shrink=0.8)
    return figure


def _squares(pixels: Num[ArrayLike, "n d"]) -> Num[np.ndarray, "n side side *colours"]:
    pixels = np.asarray(pixels)
    for colours in ((), (3,)):
        side = round((pixels.shape[1] / (3 if colours else 1)) ** 0.5)
        if side * side * (3 if colours else 1) == pixels.shape[1]:
            return pixels.reshape(-1, side, side, *colours)
    raise ValueError(f"images must be square, got {pixels.shape[1]} pixels each")


def require() -> None:
    """Raise ImportError where matplotlib is not installed or fails."""
    _extras.require("matplotlib.figure", "plots need", "plots")


def _axes(xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 4.0)) -> "tuple[Figure, Axes]":
    figure = _figure(size)
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _figure(size: tuple[float, float]) -> "Figure":
    # Not pyplot: a figure that nobody closes must not stay in memory, nor a window open.
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
