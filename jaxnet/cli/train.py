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

from jaxnet import checkpoints, plots, sharding, training
from jaxnet.cli import machines, problem, run_folder, signals, table
from jaxnet.cli.settings import Train
from jaxnet.shards import OnDisk

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
    clock, mesh = table.Clock(options.started), machines.mesh(options)
    is_first, failure = sharding.first_process(mesh), None
    with ExitStack() as ending, ExitStack() as writing:
        with sharding.alike(mesh) as same:
            task = problem.read(options, mesh)
            headline, hyperparameters = task.summary[0], options.hyperparameters()
            settings, std = task.settings | hyperparameters, hyperparameters.pop("weight_std")
            optimizer = problem.optimizer(options, **hyperparameters)
            rule = f"{options.optimizer} at {hyperparameters['learning_rate']:g}"
            if options.dry_run:
                print(problem.plan(options, task, rule))
                return 0
            configuration = run_folder.configuration(options, task.fingerprint, **settings)
            init_key, batch_key = jax.random.split(jax.random.key(options.seed))
            callbacks: list[Callable[[training.Stretch], object]] = [signals.heed]
            if is_first:
                folder = run_folder.path(options)
                best = f"{'validation' if 'validation' in task.parts else 'test'}_{headline}"
                saver = writing.enter_context(
                    checkpoints.Checkpointer(folder, every=options.checkpoint_every, best=best)
                )
                ending.push(run_folder.begin(folder, options, configuration))
                callbacks = [_table(options, task), saver, *callbacks]
            params = problem.init(options, task.sizes, init_key, std)
            like = training.init_state(params, optimizer, batch_key)
            if is_first:
                resume = saver.restore(like)
            else:
                resume = checkpoints.restore(options.out, like) if options.resume and options.out else None
            done = 0 if resume is None else int(resume.state.step)
            if is_first:
                if options.steps < done:
                    expected = f"expected --steps {done} or more, got {options.steps}"
                    raise ValueError(f"{folder} has done {done} steps: {expected}")
                run_folder.tell_resumed(folder, options, done)
                run_folder.write_config(folder, configuration)
            same |= machines.alike(options, done=done)
        before = (0.0, 0.0) if resume is None else (resume.compile_seconds, resume.train_seconds)
        clock.lap("loading")
        try:
            result = training.fit(
                task.loss,
                params,
                task.parts["train"],
                optimizer=optimizer,
                key=batch_key,
                early_stopping=stopping,
                callbacks=callbacks,
                **problem.arguments(options, task, resume, mesh),
            )
        except training.NonFiniteError as error:
            failure, result = error, error.result
        spent = result.compile_seconds - before[0], result.train_seconds - before[1]
        clock.lap("evaluation", compilation=spent[0], training=spent[1])
        if result.interrupted and not result.state.step:  # nothing to keep
            raise KeyboardInterrupt
        if not is_first:
            with sharding.alike(mesh):  # until the first process has written all
                return _code(result, failure)
        with sharding.alike(mesh):
            saver.save(result)
            steps, seconds = len(result.history.loss), result.train_seconds
            summary = {
                "steps": steps,
                "interrupted": result.interrupted,
                "stopped_early": result.stopped_early,
                "best_step": None if result.best is None else result.best.step,
                **{f"test_{name}": task.score(name, result) for name in task.summary},
                "steps_per_second": steps / seconds if steps else 0.0,
                "train_seconds": seconds,
                "compile_seconds": result.compile_seconds,
            }
            run_folder.write_params(folder, options, task.export(result.params))
            run_folder.write_summary(folder, summary, whole=not result.interrupted and failure is None)
            clock.lap("saving")
            if not options.no_plots:
                _draw(folder, result.history, task, options.batch_size / task.examples)
                clock.lap("plots")
    stopped = f", stopped early, best after step {summary['best_step']}" if result.stopped_early else ""
    print(
        f"{'-'.join(map(str, task.sizes))}, {rule}, {steps} steps"
        f"{' (interrupted)' if result.interrupted else ''}{stopped}: "
        f"test {headline} {summary[f'test_{headline}']:.4f}\n"
        f"{summary['steps_per_second']:,.0f} steps/s in training; {clock}\n"
        f"written to {folder}"
    )
    if failure is not None:
        raise FloatingPointError(f"{failure.reason}; {folder} holds the run up to there")
    return _code(result, failure)


def _code(result: training.FitResult, failure: training.NonFiniteError | None) -> int:
    return 130 if result.interrupted else 2 if failure else 0


def _table(options: Train, task: problem.Problem) -> Callable[[training.Stretch], None]:
    """Return a callback that prints a row for some forty of the evaluations, however many there are."""
    from tqdm import tqdm

    def write(line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    headline = task.summary[0]
    every = options.eval_every or max(task.examples // options.batch_size, 1)
    told = ceil((ceil(options.steps / every) + 1) / _ROWS)
    parts = [name for name, part in task.parts.items() if name != "train" or not isinstance(part, OnDisk)]
    columns = "step", "epoch", "loss", *(f"{part} {headline}" for part in parts), "seconds"
    row = table.rows_of_a_run(columns, write)
    losses: list[float] = []

    def tell(stretch: training.Stretch) -> None:
        losses.extend(stretch.loss)
        step = int(stretch.state.step)
        if stretch.test and ((step - 1) // every % told == 0 or step == options.steps):
            values = [np.mean(losses), *(getattr(stretch, part)[headline] for part in parts)]
            epoch, seconds = step * options.batch_size / task.examples, time.perf_counter() - options.started
            row([f"{step:,}", f"{epoch:.1f}", *map(table.rounded, values), f"{seconds:.1f}"])
            losses.clear()

    return tell


def _draw(folder: Path, history: training.History, task: problem.Problem, epochs_per_step: float) -> None:
    headline = task.summary[0]
    run_folder.write_picture(folder / "loss.png", lambda: plots.loss_curve(history.loss))
    epochs = history.eval_step * epochs_per_step
    found = {part: getattr(history, part) for part in ("train", "test")}
    curves = {part: measured[headline] for part, measured in found.items() if measured}
    draw = partial(plots.accuracy_curves, epochs, *curves.values())
    if headline == "r2" or len(curves) < 2:
        ylabel = "R²" if headline == "r2" else f"test {headline}"
        draw = partial(plots.lines, epochs, curves, xlabel="epochs", ylabel=ylabel)
    run_folder.write_picture(folder / f"{headline}.png", draw)
