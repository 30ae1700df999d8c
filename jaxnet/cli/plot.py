"""The command `jaxnet plot`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnet import checkpoints, metrics, plots
from jaxnet.cli import run_folder
from jaxnet.cli.evaluate import examples
from jaxnet.cli.settings import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES, _COLUMNS = 40, 10


def run(options: Plot) -> int:
    """Write the pictures, and say where; return 0."""
    single = options.folders[0] if len(options.folders) == 1 else None
    out = options.out or single or Path()
    plots.require()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got {out}: a file")
    out.mkdir(parents=True, exist_ok=True)
    written = [curves(options.folders, out)]
    if single is not None:
        written += network(single, out)
    print("written to " + ", ".join(str(path) for path in written if path is not None))
    return 0


def curves(folders: Sequence[Path], out: Path) -> Path | None:
    """Write the learning curves of runs into one picture; nothing, with a note, where one is a sweep."""
    runs, names = {}, set()
    for folder in folders:
        history = checkpoints.load_history(folder)
        if history.loss.ndim > 1:
            print(f"note: {folder} is a sweep, whose curves are in its pictures", file=sys.stderr)
            return None
        runs[str(folder)] = history
        names |= {name for name in ("accuracy", "r2") if name in history.test}
    if len(names) != 1:
        got = ", ".join(sorted(names)) or "none"
        raise ValueError(f"expected runs that record the same metric, got {got}")
    metric = names.pop()
    title = str(folders[0]) if len(folders) == 1 else ""
    run_folder.write_picture(out / "curves.png", lambda: plots.learning_curves(runs, metric), title)
    return out / "curves.png"


def network(folder: Path, out: Path) -> list[Path]:
    """Write the confusion matrix, the most confident mistakes and the first layer's weights."""
    trained = run_folder.trained(folder)
    weight = trained.saved.params[0].weight
    drawn: dict[str, tuple[str, Callable[[], Figure]]] = {}
    if not trained.is_regression:
        _, (x, t) = examples(trained)
        y = np.asarray(trained.model(x))
        matrix = np.asarray(metrics.confusion_matrix(y, t))
        accuracy = f"{np.mean(y.argmax(axis=1) == t):.4f} of {len(t):,} right"
        drawn["confusion"] = accuracy, lambda: plots.confusion_matrix(matrix, trained.class_names)
        worst = mistakes(y, t)[:_MISTAKES]
        titles = [
            f"{trained.class_names[t[row]]} as {trained.class_names[y[row].argmax()]}\n{y[row].max():.3f}"
            for row in worst
        ]
        if len(worst) and _is_picture(x.shape[1]):
            drawn["mistakes"] = "most confident mistakes", lambda: plots.images(x[worst], titles, _COLUMNS)
    if _is_picture(len(weight)):
        drawn["weights"] = "first layer", lambda: plots.weights(weight)
    for name, (title, draw) in drawn.items():
        run_folder.write_picture(out / f"{name}.png", draw, f"{folder}: {title}")
    return [out / f"{name}.png" for name in drawn]


def mistakes(y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the rows whose class is not the most probable, the most confident first."""
    wrong = np.flatnonzero(y.argmax(axis=1) != t)
    return wrong[np.argsort(-y[wrong].max(axis=1), kind="stable")]


def _is_picture(inputs: int) -> bool:
    return any(round((inputs / bands) ** 0.5) ** 2 * bands == inputs > 9 for bands in (1, 3))
