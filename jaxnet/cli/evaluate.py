"""The command `jaxnet evaluate`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import datasets, losses, metrics
from jaxnet.cli import run_folder
from jaxnet.cli.settings import Evaluate
from jaxnet.cli.table import aligned, rounded


def run(options: Evaluate) -> int:
    """Print the evaluation, or JSON; return 0."""
    found = evaluate(options.folder, options.data, options.part, options.target)
    print(json.dumps(found, indent=2) if options.json else _text(found))
    return 0


def evaluate(folder: Path, data: str | None, part: str, target: str | None) -> dict[str, Any]:
    """Return every metric of the network of a run on a dataset, by default its own."""
    trained = run_folder.trained(folder)
    name, (x, t) = examples(trained, data, part, target)
    y = trained.model(x)
    found = {"run": str(folder), "data": name, "part": part, "examples": len(x)}
    if trained.is_regression:
        of_numbers = metrics.r2, metrics.mean_absolute_error, metrics.mean_squared_error
        return found | {"scores": {f.__name__: float(f(y, t)) for f in of_numbers}}
    report = metrics.classification_report(y, t)
    loss = losses.softmax_cross_entropy(trained.logits(x), t)
    each = zip(report.precision, report.recall, report.f1, report.support, strict=True)
    return found | {
        "scores": {"loss": float(loss)} | {score: float(value) for score, value in report.scores.items()},
        "classes": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "examples": int(n)}
            for label, (p, r, f, n) in zip(trained.class_names, each, strict=True)
        },
        "confusion_matrix": np.asarray(report.confusion_matrix).astype(int).tolist(),
    }


def examples(
    trained: run_folder.Trained, data: str | None = None, part: str = "test", target: str | None = None
) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Return the name of the dataset, by default the one that the run was trained on, and its examples."""
    config = trained.config
    name = config["data"] if data is None else data
    target = config.get("target") if target is None and name.endswith(".csv") else target
    task: datasets.Task = "regression" if trained.is_regression else "classification"
    x, t = datasets.load(name, task=task, target=target)[part == "test"]
    sizes = trained.saved.sizes or ()
    if x.shape[1] != sizes[0]:
        raise ValueError(f"{name}: expected {sizes[0]} inputs, as the run has, got {x.shape[1]}")
    if not trained.is_regression and t.max() >= sizes[-1]:
        raise ValueError(f"{name}: expected {sizes[-1]} classes, as the run has, got label {t.max()}")
    return name, (x, t)


def _text(found: dict[str, Any]) -> str:
    scores = [[name.replace("_", " "), rounded(value)] for name, value in found["scores"].items()]
    parts = [f"{found['run']}: {found['examples']:,} {found['part']} examples of {found['data']}"]
    parts.append(aligned(scores, left=1))
    if "classes" in found:
        rows = [
            [name, *(f"{c[key]:.4f}" for key in ("precision", "recall", "f1")), str(c["examples"])]
            for name, c in found["classes"].items()
        ]
        parts.append(aligned([["class", "precision", "recall", "f1", "examples"], *rows], left=1))
        names = list(found["classes"])
        counts = [[name, *map(str, row)] for name, row in zip(names, found["confusion_matrix"], strict=True)]
        parts.append("taken for (columns), of each class (rows):")
        parts.append(aligned([["", *names], *counts], left=1))
    return "\n\n".join(parts)
