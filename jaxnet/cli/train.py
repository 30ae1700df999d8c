"""The command `jaxnet train`."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import jax

from jaxnet import checkpoints, plots, training
from jaxnet.cli import problem, run_folder, signals
from jaxnet.cli.options import Add, whole

HELP = "Train a network; the defaults are the source's run (4.4)."


def add_options(add: Add) -> None:
    """Add the options of this command alone."""
    problem.add_options(add, several=False)
    patience = "end after so many evaluations without a better validation loss, and keep the best parameters"
    add("--patience", type=whole, metavar="N", default=argparse.SUPPRESS, help=patience)
    out = "the run folder; by default runs/DATA-DATE-TIME"
    add("--out", type=Path, metavar="FOLDER", default=argparse.SUPPRESS, help=out)
    add("--overwrite", action="store_true", help="write over the run that the folder holds")
    resume = "continue the run that --out holds, with its options, up to --steps in all"
    add("--resume", action="store_true", help=resume)
    checkpoint = "steps between two checkpoints, from which a run can be resumed"
    add("--checkpoint-every", type=whole, default=1000, metavar="N", help=checkpoint)


def run(options: argparse.Namespace) -> int:
    """Train, write the run folder, print the summary; return the exit code."""
    with jax.enable_x64(options.dtype == "float64"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    stopping = None
    if hasattr(options, "patience"):
        if not hasattr(options, "validation"):
            raise ValueError(
                "--patience watches the loss on held-out examples: expected --validation, got none"
            )
        stopping = training.EarlyStopping(patience=options.patience)
        options.metrics = ["accuracy", "loss"]
    task = problem.read(options)
    (train, test), sizes = (task.parts["train"], task.parts["test"]), task.sizes
    hyperparameters, headline = problem.hyperparameters(options), task.summary[0]
    weight_std = getattr(options, "weight_std", problem.default_weight_std(options))
    optimizer = problem.optimizer(options, **hyperparameters)
    folder = run_folder.path(options)
    every = options.checkpoint_every
    configuration = run_folder.configuration(
        options,
        (train, test),
        **task.settings | hyperparameters,
        weight_std=weight_std,
        patience=getattr(options, "patience", None),
        checkpoint_every=every,
    )

    from tqdm import tqdm

    def print_accuracies(stretch: training.Stretch) -> None:
        if stretch.train:
            values = (str(getattr(stretch, part)[headline]) for part in task.parts)
            short = {"accuracy": "acc"}.get(headline, headline)
            tqdm.write(f"{', '.join(f'{part} {short}' for part in task.parts)} | {' , '.join(values)}")

    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    failure: training.NonFiniteError | None = None
    params = problem.init(options, sizes, init_key, weight_std)
    best = f"{'validation' if 'validation' in task.parts else 'test'}_{headline}"
    with ExitStack() as ending, checkpoints.Checkpointer(folder, every=every, best=best) as saver:
        ending.push(run_folder.begin(folder, options, configuration))
        resume = saver.restore(training.init_state(params, optimizer, batch_key))
        if options.resume:
            done = 0 if resume is None else int(resume.state.step)
            if options.steps < done:
                raise ValueError(
                    f"{folder} has done {done} steps: expected --steps {done} or more, got {options.steps}"
                )
            at = f"resumed after {done} steps" if done else "nothing to resume"
            print(f"{folder}: {at}", file=sys.stderr)
        run_folder.write_config(folder, configuration)
        try:
            result = training.fit(
                task.loss,
                params,
                train,
                test=test,
                validation=task.parts.get("validation"),
                optimizer=optimizer,
                batch_size=options.batch_size,
                steps=options.steps,
                key=batch_key,
                sampling=options.sampling,
                metrics=task.metrics,
                eval_every=getattr(options, "eval_every", None),
                early_stopping=stopping,
                callbacks=[print_accuracies, saver, signals.heed],
                stretch=every,
                resume=resume,
            )
        except training.NonFiniteError as error:
            failure, result = error, error.result
        if result.interrupted and not result.state.step:  # nothing to keep
            raise KeyboardInterrupt
        saver.save(result)
        steps, seconds = len(result.history.loss), result.train_seconds
        summary = {
            "steps": steps,
            "interrupted": result.interrupted,
            "stopped_early": result.stopped_early,
            "best_step": None if result.best is None else result.best.step,
            **{f"test_{name}": float(task.metrics[name](result.params, *test)) for name in task.summary},
            "steps_per_second": steps / seconds if steps else 0.0,
            "train_seconds": seconds,
            "compile_seconds": result.compile_seconds,
        }
        run_folder.write_params(folder, options, task.export(result.params))
        run_folder.write_summary(folder, summary, whole=not result.interrupted and failure is None)
    stopped = f", stopped early, best after step {summary['best_step']}" if result.stopped_early else ""
    rule = f"{options.optimizer} at {hyperparameters['learning_rate']:g}"
    print(
        f"{'-'.join(map(str, sizes))}, {rule}, {steps} steps"
        f"{' (interrupted)' if result.interrupted else ''}{stopped}: "
        f"test {headline} {summary[f'test_{headline}']:.4f}\n"
        f"{summary['steps_per_second']:,.0f} steps/s: {seconds:.2f} s of training, "
        f"{result.compile_seconds:.2f} s of compilation apart\n"
        f"written to {folder}"
    )
    history = result.history
    run_folder.write_picture(folder / "loss.png", lambda: plots.loss_curve(history.loss))
    epochs = history.eval_step * options.batch_size / len(train[0])
    curves = {part: getattr(history, part)[headline] for part in ("train", "test")}
    if headline == "accuracy":
        run_folder.write_picture(
            folder / "accuracy.png", lambda: plots.accuracy_curves(epochs, *curves.values())
        )
    else:
        run_folder.write_picture(
            folder / "r2.png", lambda: plots.lines(epochs, curves, xlabel="epochs", ylabel="R²")
        )
    if failure is not None:
        raise FloatingPointError(f"{failure.reason}; {folder} holds the run up to there")
    return 130 if result.interrupted else 0
