"""The command `jaxnet train`."""

import argparse
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import optax

from jaxnet import checkpoints, datasets, network, plots, training
from jaxnet.activations import ACTIVATIONS
from jaxnet.cli import run_folder
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
    resume = "continue the run that --out holds, with its options, up to --steps in all"
    add("--resume", action="store_true", help=resume)
    checkpoint = "steps between two checkpoints, from which a run can be resumed"
    add("--checkpoint-every", type=whole, default=1000, metavar="N", help=checkpoint)


def run(options: argparse.Namespace) -> int:
    """Train, write the run folder, print the summary; return the exit code."""
    factory, default_rate = _OPTIMIZERS[options.optimizer]
    learning_rate = getattr(options, "learning_rate", default_rate)
    weight_std = getattr(options, "weight_std", 0.01 if len(options.hidden) == 1 else None)
    (train, test), classes = load(options.data)
    sizes = (train[0].shape[1], *options.hidden, classes)
    folder = run_folder.path(options)
    packages = ("jaxnet", "jax", "jaxlib", "numpy", "optax")
    configuration = run_folder.configuration(
        options,
        (train, test),
        data=options.data,
        train_examples=len(train[0]),
        test_examples=len(test[0]),
        sizes=sizes,
        activation=options.activation,
        weight_std=weight_std,
        optimizer=options.optimizer,
        learning_rate=learning_rate,
        steps=options.steps,
        batch_size=options.batch_size,
        sampling=options.sampling,
        seed=options.seed,
        eval_every=getattr(options, "eval_every", None),
        checkpoint_every=options.checkpoint_every,
        device=str(jax.devices()[0]),
        versions={"python": platform.python_version()} | {name: version(name) for name in packages},
    )

    from tqdm import tqdm

    def print_accuracies(stretch: training.Stretch) -> None:
        if stretch.train:
            tqdm.write(f"train acc, test acc | {stretch.train['accuracy']!s} , {stretch.test['accuracy']!s}")

    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    accuracy = partial(network.accuracy, activation=options.activation)
    failure: training.NonFiniteError | None = None
    params, optimizer = network.init(init_key, sizes, weight_std=weight_std), factory(learning_rate)
    every = options.checkpoint_every
    with checkpoints.Checkpointer(
        folder, every=every, best="test_accuracy", overwrite=options.overwrite
    ) as saver:
        run_folder.check(folder, options, configuration)
        run_folder.clear(folder, options)
        resume = saver.restore(training.init_state(params, optimizer, batch_key))
        run_folder.write_config(folder, configuration)
        if options.resume:
            at = "nothing to resume" if resume is None else f"resumed after {resume.state.step} steps"
            print(f"{folder}: {at}", file=sys.stderr)
        try:
            result = training.fit(
                partial(network.loss, activation=options.activation),
                params,
                train,
                test=test,
                optimizer=optimizer,
                batch_size=options.batch_size,
                steps=options.steps,
                key=batch_key,
                sampling=options.sampling,
                metrics={"accuracy": accuracy},
                eval_every=getattr(options, "eval_every", None),
                callbacks=[print_accuracies, saver],
                stretch=every,
                resume=resume,
            )
        except training.NonFiniteError as error:
            failure, result = error, error.result
        saver.save(result)
        steps, seconds = len(result.history.loss), result.train_seconds
        summary = {
            "steps": steps,
            "interrupted": result.interrupted,
            "test_accuracy": float(accuracy(result.params, *test)),
            "steps_per_second": steps / seconds if steps else 0.0,
            "train_seconds": seconds,
            "compile_seconds": result.compile_seconds,
        }
        checkpoints.save_params(
            folder / "params.safetensors",
            result.params,
            activation=options.activation,
            input_scale=datasets.input_scale(options.data),
            class_names=datasets.CLASS_NAMES.get(options.data),
        )
        _plot(folder, result.history, len(train[0]) / options.batch_size)
        run_folder.write_summary(folder, summary)
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


def _plot(folder: Path, history: training.History, steps_per_epoch: float) -> None:
    train, test = history.train["accuracy"], history.test["accuracy"]
    plots.loss_curve(history.loss).savefig(folder / "loss.png", dpi=150)
    curves = plots.accuracy_curves(history.eval_step / steps_per_epoch, train, test)
    curves.savefig(folder / "accuracy.png", dpi=150)
