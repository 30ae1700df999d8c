"""The command `jaxnet train`."""

import argparse
import csv
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxnet import network, plots, training
from jaxnet.activations import ACTIVATIONS
from jaxnet.cli.options import Add, load, number, whole

HELP = "Train a network; the defaults are the source's run (4.4)."
_OPTIMIZERS: dict[str, tuple[Callable[[float], optax.GradientTransformation], float]] = {
    # name: (factory, default learning rate)
    "sgd": (optax.sgd, training.LEARNING_RATE),
    "momentum": (partial(optax.sgd, momentum=0.9), 0.01),
    "nesterov": (partial(optax.sgd, momentum=0.9, nesterov=True), 0.01),
    "adam": (optax.adam, 0.001),
    "adamw": (optax.adamw, 0.001),
}


def add_options(add: Add) -> None:
    """Add the options of this command alone."""
    add("--hidden", type=whole, nargs="+", default=[50], metavar="N", help="units of each hidden layer")
    add("--activation", choices=ACTIVATIONS, default="sigmoid", help="of the hidden layers")
    add("--optimizer", choices=_OPTIMIZERS, default="sgd", help="momentum and nesterov: 0.9")
    rates = "by default " + ", ".join(f"{rate} for {name}" for name, (_, rate) in _OPTIMIZERS.items())
    add("--learning-rate", type=number, metavar="RATE", default=argparse.SUPPRESS, help=rates)
    sampling = "draw each batch anew, or shuffle once per epoch"
    add("--sampling", choices=("replacement", "shuffle"), default="replacement", help=sampling)
    every = "steps between two accuracy lines; by default an epoch's"
    add("--eval-every", type=whole, metavar="N", default=argparse.SUPPRESS, help=every)
    out = "the run folder; by default runs/DATA-DATE-TIME"
    add("--out", type=Path, metavar="FOLDER", default=argparse.SUPPRESS, help=out)
    add("--overwrite", action="store_true", help="write over the run that the folder holds")


def run(options: argparse.Namespace) -> int:
    """Train, write the run folder, print the summary; return the exit code."""
    factory, default_rate = _OPTIMIZERS[options.optimizer]
    learning_rate = getattr(options, "learning_rate", default_rate)
    weight_std = getattr(options, "weight_std", 0.01 if len(options.hidden) == 1 else None)
    (train, test), classes = load(options.data)
    sizes = (train[0].shape[1], *options.hidden, classes)
    folder = _run_folder(options)
    packages = ("jaxnet", "jax", "jaxlib", "numpy", "optax")
    configuration = {
        "data": options.data,
        "train_examples": len(train[0]),
        "test_examples": len(test[0]),
        "sizes": sizes,
        "activation": options.activation,
        "weight_std": weight_std,
        "optimizer": options.optimizer,
        "learning_rate": learning_rate,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "sampling": options.sampling,
        "seed": options.seed,
        "device": str(jax.devices()[0]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }
    _write_json(folder / "config.json", configuration)

    from tqdm import tqdm

    def print_accuracies(stretch: training.Stretch) -> None:
        if stretch.train:
            tqdm.write(f"train acc, test acc | {stretch.train['accuracy']!s} , {stretch.test['accuracy']!s}")

    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    accuracy = partial(network.accuracy, activation=options.activation)
    failure: training.NonFiniteError | None = None
    try:
        result = training.fit(
            partial(network.loss, activation=options.activation),
            network.init(init_key, sizes, weight_std=weight_std),
            train,
            test=test,
            optimizer=factory(learning_rate),
            batch_size=options.batch_size,
            steps=options.steps,
            key=batch_key,
            sampling=options.sampling,
            metrics={"accuracy": accuracy},
            eval_every=getattr(options, "eval_every", None),
            callbacks=[print_accuracies],
        )
    except training.NonFiniteError as error:
        failure, result = error, error.result

    steps, seconds = len(result.history.loss), result.train_seconds
    summary = {
        "steps": steps,
        "interrupted": result.interrupted,
        "test_accuracy": float(accuracy(result.params, *test)),
        "steps_per_second": steps / seconds if steps else 0.0,
        "train_seconds": seconds,
        "compile_seconds": result.compile_seconds,
    }
    _write_run(folder, result, summary, len(train[0]) / options.batch_size)
    print(
        f"{'-'.join(map(str, sizes))}, {options.optimizer} at {learning_rate:g}, {steps} steps"
        f"{' (interrupted)' if result.interrupted else ''}: test accuracy {summary['test_accuracy']:.4f}\n"
        f"{summary['steps_per_second']:,.0f} steps/s: {seconds:.2f} s of training, "
        f"{result.compile_seconds:.2f} s of compilation apart\n"
        f"written to {folder}"
    )
    if failure is not None:
        raise FloatingPointError(f"{failure.reason}; {folder} holds the run up to there")
    return 130 if result.interrupted else 0


def _run_folder(options: argparse.Namespace) -> Path:
    """Return the run folder, made and seen to be writable before anything is computed."""
    default = Path("runs") / f"{Path(options.data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder: Path = getattr(options, "out", default)
    try:
        if (folder / "summary.json").exists() and not options.overwrite:
            raise ValueError(f"{folder} already holds a run: choose another --out, or --overwrite it")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").touch()
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written, got {folder}: {error.strerror}"
        ) from None
    return folder


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_run(folder: Path, result: training.FitResult, summary: dict, steps_per_epoch: float) -> None:
    history = result.history
    steps, train, test = history.eval_step, history.train["accuracy"], history.test["accuracy"]
    evaluations = {step: pair for step, *pair in zip(steps.tolist(), train, test, strict=True)}
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "loss", "train_accuracy", "test_accuracy"))
        for step, loss in enumerate(history.loss):
            writer.writerow((step, loss, *evaluations.get(step, ("", ""))))
    arrays: dict[str, Any] = {
        f"{index}.{name}": np.asarray(value)
        for index, layer in enumerate(result.params)
        for name, value in layer._asdict().items()
    }
    np.savez(folder / "params.npz", **arrays)
    plots.loss_curve(history.loss).savefig(folder / "loss.png", dpi=150)
    plots.accuracy_curves(steps / steps_per_epoch, train, test).savefig(folder / "accuracy.png", dpi=150)
    _write_json(folder / "summary.json", summary)
