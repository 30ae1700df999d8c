"""The commands `jaxnet train` and `jaxnet parity`."""

import argparse
import csv
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax

from jaxnet import datasets, network, plots, training
from jaxnet.activations import ACTIVATIONS

_OPTIMIZERS: dict[str, tuple[Callable[[float], optax.GradientTransformation], float]] = {
    # name: (factory, default learning rate)
    "sgd": (optax.sgd, training.LEARNING_RATE),
    "momentum": (partial(optax.sgd, momentum=0.9), 0.01),
    "nesterov": (partial(optax.sgd, momentum=0.9, nesterov=True), 0.01),
    "adam": (optax.adam, 0.001),
    "adamw": (optax.adamw, 0.001),
}
_PARITY_TOLERANCE = 1e-10
_PARITY_EVERY = 100  # steps
_PARITY_LIMIT = 10**8  # steps × batch size


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (parity fails), 2 (error, in one line), 130 (Ctrl-C)."""
    options = _parser().parse_args(argv)
    expected = ValueError, TypeError, OSError, ImportError, FloatingPointError, jax.errors.JaxRuntimeError
    try:
        jax.devices()
    except Exception as error:  # jax has several, down to a bare AssertionError, for a platform it cannot use
        print(f"jaxnet: error: JAX finds no usable device: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        return options.run(options)
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130
    except expected as error:
        print(f"jaxnet {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxnet", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jaxnet {version('jaxnet')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    shared = _Parser(add_help=False)
    number, whole = _positive(float), _positive(int)
    add: Callable[..., Any] = shared.add_argument
    add("--data", default="mnist", help="digits, mnist, fashion-mnist, or an .npz file")
    add("--steps", type=whole, default=training.STEPS, metavar="N", help="mini-batch updates")
    add("--batch-size", type=whole, default=training.BATCH_SIZE, metavar="N", help="examples per update")
    add("--seed", type=_seed, default=0, metavar="N", help="of the initial weights and of the batches")
    weight_std = "of the initial weights; by default 0.01, or 1/sqrt(inputs) for several hidden layers"
    add("--weight-std", type=number, metavar="STD", default=argparse.SUPPRESS, help=weight_std)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., Any]:
        form = argparse.ArgumentDefaultsHelpFormatter
        sub = commands.add_parser(
            name, parents=[shared], help=text, description=text, allow_abbrev=False, formatter_class=form
        )
        sub.set_defaults(run=run)
        return sub.add_argument

    add = command("train", _train, "Train a network; the defaults are the source's run (4.4).")
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

    text = (
        "Train the NumPy reference and jaxnet side by side in float64 and print how far apart they ever are."
    )
    add = command("parity", _parity, text)
    add("--hidden", type=whole, default=50, metavar="N", help="units of the hidden layer")
    rate = training.LEARNING_RATE
    add("--learning-rate", type=number, default=rate, metavar="RATE", help="of stochastic gradient descent")
    return parser


def _positive(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        # No further than what int32 and float32 hold.
        if not 0 < value < (2**31 if kind is int else 3e38):
            what = "integer" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"expected a positive {what}, got {text!r}")
        return value

    return parse


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:  # beyond that, seeds would repeat
        raise argparse.ArgumentTypeError(f"expected an integer in 0..{2**32 - 1}, got {text!r}")
    return int(text)


def _load(name: str) -> tuple[datasets.Split, int]:
    """Return the dataset and its number of classes."""
    train, test = datasets.load(name)
    return (train, test), int(max(train[1].max(), test[1].max())) + 1


def _train(options: argparse.Namespace) -> int:
    factory, default_rate = _OPTIMIZERS[options.optimizer]
    learning_rate = getattr(options, "learning_rate", default_rate)
    weight_std = getattr(options, "weight_std", 0.01 if len(options.hidden) == 1 else None)
    (train, test), classes = _load(options.data)
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


def _parity(options: argparse.Namespace) -> int:
    # The one place where jaxnet meets the reference, with which it shares no code.
    import reference_numpy

    if options.steps * options.batch_size > _PARITY_LIMIT:
        drawn = options.steps * options.batch_size
        raise ValueError(f"parity draws all batches at once, at most {_PARITY_LIMIT} examples, got {drawn}")
    (train, _), classes = _load(options.data)
    x, labels = train[0].astype(np.float64), train[1]
    t = np.eye(classes)[labels]
    sizes = (x.shape[1], options.hidden, classes)
    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    batches = np.asarray(
        training.draw_batches(batch_key, 0, options.steps, options.batch_size, len(x), "replacement")
    )
    with jax.enable_x64(True):
        params = network.init(
            init_key, sizes, weight_std=getattr(options, "weight_std", 0.01), dtype=np.float64
        )
    reference = reference_numpy.TwoLayerNet(
        *sizes, softmax=reference_numpy.softmax_by_row, sigmoid=reference_numpy.sigmoid_stable
    )
    names = ("W1", "b1", "W2", "b2")
    reference.params = {
        name: np.array(leaf) for name, leaf in zip(names, jax.tree.leaves(params), strict=True)
    }
    reference_steps = reference_numpy.sgd_steps(
        reference, x, t, batches=batches, learning_rate=options.learning_rate
    )
    # Largest differences so far: of parameters, of exact losses, and of the exact loss from the source's,
    # which has 1e-7 inside the logarithm.
    furthest = dict.fromkeys(("params", "exact loss", "published loss"), 0.0)

    def record(name: str, difference: float) -> None:
        furthest[name] = max(furthest[name], float(abs(difference)))

    def compare(stretch: training.Stretch) -> None:
        step = 0
        for loss in stretch.loss:
            step, published = next(reference_steps)
            record("exact loss", loss - reference.exact_loss(x[batches[step]], t[batches[step]]))
            record("published loss", loss - published)
        for name, leaf in zip(names, jax.tree.leaves(stretch.state.params), strict=True):
            record("params", np.abs(reference.params[name] - leaf).max())
        if (step + 1) % (10 * _PARITY_EVERY) == 0 or step + 1 == options.steps:
            values = "  ".join(f"{name} {value:.2e}" for name, value in furthest.items())
            print(f"step {step + 1:6d}: {values}", flush=True)

    print("largest differences so far between the reference and jaxnet:")
    with jax.enable_x64(True):
        result = training.fit(
            network.loss,
            params,
            (x, labels),
            batches=batches,
            optimizer=optax.sgd(options.learning_rate),
            loss_after_update=True,
            stretch=_PARITY_EVERY,
            callbacks=[compare],
            progress=False,
        )
    if result.interrupted:
        raise KeyboardInterrupt
    passed = max(furthest["params"], furthest["exact loss"]) <= _PARITY_TOLERANCE
    print(
        f"parameters, compared every {_PARITY_EVERY} steps, differ at most by {furthest['params']:.2e}, "
        f"losses by {furthest['exact loss']:.2e};\n"
        f"the source's own loss differs by up to {furthest['published loss']:.2e} for its 1e-7\n"
        f"{'pass' if passed else 'FAIL'} at {_PARITY_TOLERANCE:g}"
    )
    return 0 if passed else 1
