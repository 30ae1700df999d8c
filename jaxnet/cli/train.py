"""The command `jaxnet train`."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import jax
import numpy as np

from jaxnet import checkpoints, plots, training
from jaxnet.cli import problem, run_folder, signals, table
from jaxnet.cli.settings import Train

_ROWS = 38  # so that a run is some forty lines, with the header and the end


def run(options: Train) -> int:
    """Train, write the run folder, print the summary; return the exit code."""
    stopping = None
    if options.patience is not None:
        if options.validation is None:
            watched = "--patience watches the loss on held-out examples"
            raise ValueError(f"{watched}: expected --validation, got none")
        stopping = training.EarlyStopping(patience=options.patience)
        options = replace(options, metrics=("accuracy", "loss"))
    clock = table.Clock(options.started)
    task = problem.read(options)
    (train, test), sizes = (task.parts["train"], task.parts["test"]), task.sizes
    hyperparameters, headline = options.hyperparameters(), task.summary[0]
    settings, weight_std = task.settings | hyperparameters, hyperparameters.pop("weight_std")
    optimizer = problem.optimizer(options, **hyperparameters)
    rule = f"{options.optimizer} at {hyperparameters['learning_rate']:g}"
    if options.dry_run:
        print(problem.plan(options, task, rule))
        return 0
    folder = run_folder.path(options)
    configuration = run_folder.configuration(options, (train, test), **settings)

    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    failure: training.NonFiniteError | None = None
    best = f"{'validation' if 'validation' in task.parts else 'test'}_{headline}"
    with (
        ExitStack() as ending,
        checkpoints.Checkpointer(folder, every=options.checkpoint_every, best=best) as saver,
    ):
        ending.push(run_folder.begin(folder, options, configuration))
        params = problem.init(options, sizes, init_key, weight_std)
        resume = saver.restore(training.init_state(params, optimizer, batch_key))
        done = 0 if resume is None else int(resume.state.step)
        if options.steps < done:
            raise ValueError(
                f"{folder} has done {done} steps: expected --steps {done} or more, got {options.steps}"
            )
        run_folder.tell_resumed(folder, options, done)
        run_folder.write_config(folder, configuration)
        before = (0.0, 0.0) if resume is None else (resume.compile_seconds, resume.train_seconds)
        clock.lap("loading")
        try:
            result = training.fit(
                task.loss,
                params,
                train,
                optimizer=optimizer,
                key=batch_key,
                early_stopping=stopping,
                callbacks=[_table(options, task, len(train[0])), saver, signals.heed],
                **problem.arguments(options, task, resume),
            )
        except training.NonFiniteError as error:
            failure, result = error, error.result
        spent = result.compile_seconds - before[0], result.train_seconds - before[1]
        clock.lap("evaluation", compilation=spent[0], training=spent[1])
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
        clock.lap("saving")
    if not options.no_plots:
        _draw(folder, result.history, task, options.batch_size / len(train[0]))
        clock.lap("plots")
    stopped = f", stopped early, best after step {summary['best_step']}" if result.stopped_early else ""
    print(
        f"{'-'.join(map(str, sizes))}, {rule}, {steps} steps"
        f"{' (interrupted)' if result.interrupted else ''}{stopped}: "
        f"test {headline} {summary[f'test_{headline}']:.4f}\n"
        f"{summary['steps_per_second']:,.0f} steps/s in training; {clock}\n"
        f"written to {folder}"
    )
    if failure is not None:
        raise FloatingPointError(f"{failure.reason}; {folder} holds the run up to there")
    return 130 if result.interrupted else 0


def _table(options: Train, task: problem.Problem, examples: int) -> Callable[[training.Stretch], None]:
    """Return a callback that prints a row for some forty of the evaluations, however many there are."""
    from tqdm import tqdm

    def write(line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    headline = task.summary[0]
    every = options.eval_every or max(examples // options.batch_size, 1)
    told = ceil((ceil(options.steps / every) + 1) / _ROWS)
    columns = "step", "epoch", "loss", *(f"{part} {headline}" for part in task.parts), "seconds"
    row = table.rows_of_a_run(columns, write)
    losses: list[float] = []

    def tell(stretch: training.Stretch) -> None:
        losses.extend(stretch.loss)
        step = int(stretch.state.step)
        if stretch.train and ((step - 1) // every % told == 0 or step == options.steps):
            values = [np.mean(losses), *(getattr(stretch, part)[headline] for part in task.parts)]
            epoch, seconds = step * options.batch_size / examples, time.perf_counter() - options.started
            row([f"{step:,}", f"{epoch:.1f}", *map(table.rounded, values), f"{seconds:.1f}"])
            losses.clear()

    return tell


def _draw(folder: Path, history: training.History, task: problem.Problem, epochs_per_step: float) -> None:
    headline = task.summary[0]
    run_folder.write_picture(folder / "loss.png", lambda: plots.loss_curve(history.loss))
    epochs = history.eval_step * epochs_per_step
    curves = {part: getattr(history, part)[headline] for part in ("train", "test")}
    draw = partial(plots.accuracy_curves, epochs, *curves.values())
    if headline == "r2":
        draw = partial(plots.lines, epochs, curves, xlabel="epochs", ylabel="R²")
    run_folder.write_picture(folder / f"{headline}.png", draw)
