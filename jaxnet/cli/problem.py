"""What `jaxnet train` and `jaxnet sweep` have in common: dataset, network, loss, metrics and optimizer."""

import platform
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnet import datasets, metrics, network, optimizers, sharding, shards, training
from jaxnet.cli import run_folder, table
from jaxnet.cli.settings import Train, Training, not_negative

_ERRORS = ("mean_absolute_error", "mean_squared_error", "r2")
# Told by what they lead to: the sizes, the metrics by name, the values of a run or of each setting.
_RESOLVED = ("hidden", "metrics", "learning_rate", "weight_std", "samples", "max_networks")


Parts = dict[str, Any]  # pairs (x, t), or datasets on disk


class Problem(NamedTuple):
    """What to train on what, as the options say it."""

    parts: dict[str, Any]  # pairs (x, t), or of several processes a Share of each
    examples: int
    """How many to train on."""
    fingerprint: str
    sizes: tuple[int, ...]
    loss: Any
    metrics: dict[str, Any]
    summary: tuple[str, ...]
    """The metrics that say how good the network is, the first of them in one number."""
    export: Callable[[network.Params], dict[str, Any]]
    """What `checkpoints.save_params` takes of params."""
    settings: dict[str, Any]
    """What `config.json` says of all this."""

    def score(self, name: str, result: training.FitResult) -> float:
        """Return a metric of the test examples, as the run evaluated the parameters that it gives."""
        steps, best = result.history.eval_step, result.best
        return float(result.history.test[name][-1 if best is None else steps.tolist().index(best.step)])


def read(options: Training, mesh: Mesh | None = None) -> Problem:
    """Load the dataset and make the problem; ValueError where the options do not fit it.

    mesh: where it is of several processes, of each part this process's share.
    """
    task = options.task or "classification"
    parts: dict[str, Any]
    own, is_alone = "", mesh is None or not sharding.several_processes(mesh)
    if isinstance(options, Train) and shards.is_folder(options.data):
        if task == "regression" or options.validation is not None or options.target is not None:
            raise ValueError("a dataset on disk takes no --task, --target or --validation, got one of them")
        parts = dict(zip(("train", "test"), shards.load(options.data), strict=True))
    elif mesh is not None and not is_alone and _is_published(options):
        parts, own = shards.own_part(options.data, lambda length: sharding.own_rows(length, mesh))
    else:
        train, test = datasets.load(options.data, task=task, target=options.target)
        parts = {"train": train, "test": test}
    if options.validation is not None:
        train, validation = datasets.split(train, options.validation, options.seed)
        parts = {"train": train, "validation": validation, "test": test}
    dtype = jnp.bfloat16 if options.dtype == "bfloat16" else None
    make = _regression if task == "regression" else _classification
    problem: Problem = make(options, parts, {"activation": options.activation, "dtype": dtype})
    if mesh is None or is_alone or isinstance(parts["train"], shards.OnDisk):
        return problem
    shares: dict[str, Any] = {}
    for name, (x, t) in problem.parts.items():
        rows = slice(*sharding.own_rows(len(t), mesh))
        shares[name] = sharding.Share(x[rows].copy() if len(x) == len(t) else x, t[rows], len(t))
    return problem._replace(parts=shares, fingerprint=own or problem.fingerprint)


def _is_published(options: Training) -> bool:
    """Return whether a process can read its own rows alone; else it reads all, and lets go of the others."""
    others = options.validation, options.target, options.task
    return options.data in ("mnist", "fashion-mnist") and not any(others)


def _classification(options: Training, parts: Parts, chosen: dict[str, Any]) -> Problem:
    labels = {name: p.labels() if isinstance(p, shards.OnDisk) else p[1] for name, p in parts.items()}
    classes = int(max(labels[name].max() for name in ("train", "test"))) + 1
    weights = _class_weights(options.class_weights, labels["train"], classes)
    loss = partial(network.loss, **chosen, class_weight=weights)
    own = {"accuracy": partial(network.accuracy, **chosen), "loss": loss}
    names = sorted({"accuracy", *options.metrics})  # of accuracy are the lines, the plot and the summary
    known = own | metrics.of(partial(network.predict, **chosen), *(name for name in names if name not in own))
    saved = {
        "input_scale": datasets.input_scale(options.data),
        "class_names": datasets.class_names(options.data, target=options.target),
    }
    evaluated = {name: known[name] for name in names}
    return _problem(options, parts, classes, loss, evaluated, ("accuracy",), lambda p: {"params": p} | saved)


def _regression(options: Training, parts: Parts, chosen: dict[str, Any]) -> Problem:
    """Return a problem of standardised inputs and targets; metrics and export are in their own units."""
    if options.class_weights is not None or set(options.metrics) - {"accuracy", "loss"}:
        raise ValueError("--class-weights and --metrics are of classes, got them with --task regression")
    x, t = (array.astype(np.float64) for array in parts["train"])
    if t.ndim != 1:
        raise ValueError(f"--task regression predicts one number, got targets of shape {list(t.shape)}")
    mean, std, shift, scale = x.mean(axis=0), x.std(axis=0), float(t.mean()), float(t.std()) or 1.0
    std = np.where(std > 0, std, 1.0)
    standardised = {
        name: (((x - mean) / std).astype(np.float32), ((t - shift) / scale).astype(np.float32))
        for name, (x, t) in parts.items()
    }
    loss = partial(network.squared_loss, **chosen)
    found = metrics.of(
        partial(network.logits, **chosen),
        "r2",
        mean_absolute_error=lambda y, t: metrics.mean_absolute_error(y, t) * scale,
        mean_squared_error=lambda y, t: metrics.mean_squared_error(y, t) * scale**2,
    )
    saved = {"input_scale": datasets.input_scale(options.data)}

    def export(params: network.Params) -> dict[str, Any]:
        own_units = network.rescaled(params, scale, shift, input_mean=mean, input_std=std)
        return {"params": own_units} | saved

    evaluated = dict(sorted((found | ({"loss": loss} if "loss" in options.metrics else {})).items()))
    return _problem(options, standardised, 1, loss, evaluated, ("r2", *_ERRORS[:2]), export)


def _problem(
    options: Training,
    parts: Parts,
    outputs: int,
    loss: Any,
    metrics: dict[str, Any],
    summary: tuple[str, ...],
    export: Callable[[network.Params], dict[str, Any]],
) -> Problem:
    train, test = parts["train"], parts["test"]
    counts = [_length(part) for part in (train, test)]
    first = train.rows(np.arange(1))[0] if isinstance(train, shards.OnDisk) else train[0]
    sizes = (first.shape[1], *options.hidden, outputs)
    packages = ("jaxnet", "jax", "jaxlib", "numpy", "optax")
    settings = {
        **{name: value for name, value in options.saved().items() if name not in _RESOLVED},
        "train_examples": counts[0],
        "test_examples": counts[1],
        "sizes": sizes,
        "metrics": sorted(metrics),
        "device": str(*jnp.zeros(()).devices()),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }
    fingerprint = run_folder.fingerprint((train, test))
    return Problem(parts, counts[0], fingerprint, sizes, loss, metrics, summary, export, settings)


def _length(part: Any) -> int:
    if isinstance(part, sharding.Share):
        return part.length
    return len(part) if isinstance(part, shards.OnDisk) else len(part[1])


def plan(options: Training, task: Problem, rule: str) -> str:
    """Return what would be trained on what, for --dry-run."""
    parts = ", ".join(f"{name} [{_length(part)}, {task.sizes[0]}]" for name, part in task.parts.items())
    parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(task.sizes))
    shape = f"{'-'.join(map(str, task.sizes))}, {options.activation}, {options.dtype}"
    epochs = options.steps * options.batch_size / task.examples
    rows = [
        ["data", f"{options.data}: {parts}"],
        ["network", f"{shape}: {parameters:,} parameters"],
        [
            "training",
            f"{rule}, {options.steps:,} steps of {options.batch_size} examples: {epochs:.1f} epochs",
        ],
        ["device", task.settings["device"]],
        ["folder", str(options.out or "runs/DATA-DATE-TIME")],
    ]
    return table.aligned(rows, left=2)


def arguments(options: Training, task: Problem, resume: Any, mesh: Mesh | None) -> dict[str, Any]:
    """Return what `fit` and `fit_many` take alike."""
    return {
        "test": task.parts["test"],
        "validation": task.parts.get("validation"),
        **{name: getattr(options, name) for name in ("batch_size", "steps", "sampling", "eval_every")},
        "metrics": task.metrics,
        "stretch": options.checkpoint_every,
        "resume": resume,
        "mesh": mesh,
        "progress": not options.quiet,
    }


def init(options: Training, sizes: tuple[int, ...], key: jax.Array, weight_std: float | None) -> Any:
    """Return the network's first parameters."""
    dtype = np.float64 if options.dtype == "float64" else np.float32
    return network.init(key, sizes, weight_std=weight_std, dtype=dtype)


def optimizer(options: Training, **values: Any) -> optax.GradientTransformation:
    """Return the optimizer, with values of its hyperparameters."""
    if "momentum" in values and options.optimizer not in ("momentum", "nesterov"):
        raise ValueError(f"--momentum is of momentum and nesterov, got it with {options.optimizer}")
    shape = {name: getattr(options, name) for name in ("schedule", "steps", "warmup_steps")}
    return optimizers.optimizer(options.optimizer, **shape, **values)


def _class_weights(texts: tuple[str, ...] | None, labels: np.ndarray, classes: int) -> np.ndarray | None:
    if texts is None:
        return None
    if texts == ("balanced",):
        return training.balanced_class_weight(labels, classes)
    try:
        weights = np.array([not_negative(text) for text in texts])
    except ArgumentTypeError:
        weights = np.array([])
    if len(weights) != classes:
        raise ValueError(
            f"--class-weights must be 'balanced' or {classes} numbers that are not negative, one for each "
            f"class, got {' '.join(texts)}"
        )
    return weights


def load(name: str) -> tuple[datasets.Split, int]:
    """Return the dataset and its number of classes."""
    train, test = datasets.load(name)
    return (train, test), int(max(train[1].max(), test[1].max())) + 1
