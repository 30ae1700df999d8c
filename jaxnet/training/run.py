"""The one loop of `fit` and `fit_many`: a run, and the stretches of steps that extend it."""

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnet.training.program import Evaluate, Metrics, merged
from jaxnet.training.state import PyTree, TrainState
from jaxnet.training.task import EarlyStopping, Task, batch_error

Train = Callable[[TrainState, int, int], tuple[TrainState, np.ndarray, np.ndarray]]

_MAX_STRETCH = 1000  # steps
_MAX_DRAWN = 2**20  # examples
_FIRST_STRETCH = 20  # steps, while their pace is unknown
_STRETCH_SECONDS = 0.5  # how long a Ctrl-C or the progress bar may have to wait
PARTS = ("train", "test", "validation")


class History(NamedTuple):
    """What a run recorded, as NumPy arrays; of many networks they have these on the first axis."""

    loss: Float[np.ndarray, "... steps"]
    """The loss of each step's batch: before its update, or after it with `loss_after_update=True`."""
    eval_step: Int[np.ndarray, " evals"]
    """The steps (from 0) right after whose update the metrics were taken."""
    train: dict[str, Float[np.ndarray, "... evals"]]
    test: dict[str, Float[np.ndarray, "... evals"]]
    validation: dict[str, Float[np.ndarray, "... evals"]]


class Best(NamedTuple):
    """The best evaluation of a run with early stopping."""

    step: int
    """The step (from 0) right after whose update it was."""
    value: np.floating
    params: PyTree


class Stretch(NamedTuple):
    """What a callback is told after each stretch of steps."""

    state: TrainState
    loss: Float[np.ndarray, "... steps"]
    """Losses of this stretch alone."""
    train: dict[str, Any]
    """The metrics taken at its end; empty between two evaluations."""
    test: dict[str, Any]
    seconds: float
    validation: dict[str, Any]
    best: Best | None = None
    """With early stopping, the best evaluation so far."""
    result: Callable[[], Any] | None = None
    """Makes the result of the run so far, such as to save it."""


class Run(NamedTuple):
    """All that a run has come to: a stretch extends it, a result is made of it, resuming starts from one."""

    state: TrainState
    alive: Bool[np.ndarray, "..."]
    """Whether all was finite so far; [] or [networks]."""
    done: int = 0
    losses: tuple[np.ndarray, ...] = ()  # [..., steps], in few pieces
    evaluations: tuple[tuple[int, Metrics], ...] = ()
    scheduled: Best | None = None
    """The best of the evaluations that a longer run would have too."""
    best: Best | None = None
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    failure: str = ""
    """What became non-finite, where one network's run ends with it."""

    def stopped_early(self, task: Task) -> bool:
        """Whether early stopping ends the run here."""
        if task.early_stopping is None:
            return False
        return best_step(_on_schedule(self.evaluations, task), task.early_stopping)[1]


def history_of(run: Run, task: Task) -> History:
    """Return what a run recorded."""
    empty = np.zeros((*run.alive.shape, 0), np.float32)

    def curves(part: str) -> dict[str, np.ndarray]:
        found = [measured for _, measured in run.evaluations]
        if part not in task.eval_parts:
            return {}
        if not found:
            return dict.fromkeys(task.metrics, empty)
        return {name: np.stack([m[part][name] for m in found], axis=-1) for name in task.metrics}

    loss = np.concatenate(run.losses, axis=-1) if run.losses else empty
    steps = np.array([step for step, _ in run.evaluations], int)
    return History(loss, steps, *(curves(part) for part in PARTS))


def resumed(
    history: History, fresh: Run, task: Task, state: TrainState, done: int, best: Sequence[Best | None]
) -> Run:
    """Return the run that a history and a state are of, to go on to the steps of the task.

    best: the best evaluation on the schedule, and the best of all. An evaluation that only the end of that
    run had is forgotten where this one goes further.
    """
    expected = {part: list(task.metrics) if part in task.eval_parts else [] for part in PARTS}
    for part in PARTS:
        if (got := list(getattr(history, part))) != expected[part]:
            raise ValueError(f"resume must hold the {part} metrics {expected[part]}, got {got}")
    if done > task.steps:
        raise ValueError(
            f"steps must be at least the {done} that the run to resume has done, got {task.steps}"
        )
    evaluations = tuple(
        (int(step), {p: {n: getattr(history, p)[n][..., i] for n in task.metrics} for p in task.eval_parts})
        for i, step in enumerate(history.eval_step)
        if step < done
    )
    kept = _on_schedule(evaluations, task)
    scheduled, last = best
    if stopping := task.early_stopping:
        expected_best, got_best = best_step(kept, stopping)[0], None if scheduled is None else scheduled.step
        if got_best != expected_best:
            raise ValueError(
                f"resume must be of a run with this early stopping, whose best evaluation is after step "
                f"{expected_best}, got {'no best' if got_best is None else got_best}"
            )
    else:
        scheduled = last = None
    if done < task.steps:
        evaluations, last = kept, scheduled
    losses = (history.loss[..., :done],)
    return fresh._replace(
        state=state, done=done, losses=losses, evaluations=evaluations, scheduled=scheduled, best=last
    )


def best_step(evaluations: Sequence[tuple[int, Metrics]], stopping: EarlyStopping) -> tuple[int | None, bool]:
    """Return the step of the best evaluation, if any, and whether the run has gone on long enough since."""
    best, found, waited = None, None, 0
    sign = 1 if stopping.mode == "min" else -1
    for step, measured in evaluations:
        value = sign * float(measured[stopping.part][stopping.metric])
        if not np.isnan(value) and (best is None or value < best - stopping.min_delta):
            best, found, waited = value, step, 0
        else:
            waited += 1
    return found, waited >= stopping.patience


def _on_schedule(evaluations: tuple[tuple[int, Metrics], ...], task: Task) -> tuple[tuple[int, Metrics], ...]:
    return tuple(found for found in evaluations if task.eval_every and found[0] % task.eval_every == 0)


def stretches(
    run: Run, train: Train, measure: Evaluate, task: Task, max_steps: int
) -> Iterator[tuple[Run, Stretch | None]]:
    """Yield the run after each few steps, and what callbacks are told where a stretch ends there.

    It ends with the task's steps, with early stopping, or where nothing is finite any more.
    """
    pace, pieces, seconds = 0.0, [], 0.0
    while run.done < task.steps and run.alive.any() and not run.stopped_early(task):
        cut = next_cut(run.done, pace, task, max_steps)
        start = time.perf_counter()
        run, losses = _extended(run, train, cut.num_steps, task)
        taken = time.perf_counter() - start
        run = run._replace(train_seconds=run.train_seconds + taken)
        if run.failure:
            yield run, None
            return
        pace, seconds = taken / cut.num_steps, seconds + taken
        pieces.append(losses)
        measured: Metrics = {}
        if cut.evaluates:
            measured = measure(run.state.params)
            run = _evaluated(run, measured, task)
        told = None
        if cut.ends:
            curves = {part: measured.get(part, {}) for part in PARTS}
            loss = np.concatenate(pieces, axis=-1)
            told = Stretch(
                run.state, loss, curves["train"], curves["test"], seconds, curves["validation"], run.best
            )
            pieces, seconds = [], 0.0
        yield run, told


def _extended(run: Run, train: Train, num_steps: int, task: Task) -> tuple[Run, np.ndarray]:
    """Return the run some steps later, and their losses; what is not finite stays where it last was."""
    state, losses, finite = train(run.state, run.done, num_steps)
    alive, failure = run.alive, ""
    if task.on_nonfinite == "stop":
        alive = np.asarray(run.alive & finite & np.isfinite(losses).all(axis=-1))
        state = merged(run.alive, state, run.state)
        losses = np.where(run.alive[..., None], losses, np.asarray(np.nan, losses.dtype))
        if (failed := np.asarray(run.alive & ~alive)).any():
            state, losses, failure = _rewound(run, train, state, losses, failed)
            for index in np.flatnonzero(failed) if failed.ndim else ():
                if (error := batch_error(state, task, int(index))) is not None:
                    raise error
    if failure and not alive.ndim:
        num_steps = losses.shape[-1]
    else:
        failure = ""
    pieces = (*run.losses, losses)
    while len(pieces) > 1 and pieces[-2].shape[-1] <= pieces[-1].shape[-1]:  # so that they stay few
        pieces = (*pieces[:-2], np.concatenate(pieces[-2:], axis=-1))
    done = run.done + num_steps
    return run._replace(state=state, alive=alive, done=done, losses=pieces, failure=failure), losses


def _rewound(
    run: Run, train: Train, state: TrainState, losses: np.ndarray, failed: np.ndarray
) -> tuple[TrainState, np.ndarray, str]:
    """Return the state with the failed networks as they last were finite, the losses up to there, and why.

    The program is deterministic and can be cut anywhere: so it is run again, up to where it was last good.
    One that looked at every step would, with Adam, differ in the last bits.
    """
    width = losses.shape[-1]
    rows = np.isfinite(losses).reshape(-1, width)
    goods = np.where(rows.all(axis=1), width, rows.argmin(axis=1))
    failure = "a parameter became non-finite"

    def after(steps: int) -> tuple[TrainState, np.ndarray]:
        there, _, finite = train(run.state, run.done, steps)
        return there, np.atleast_1d(finite)

    for good in np.unique(goods[np.atleast_1d(failed)]):
        there, finite = after(int(good))
        own = np.atleast_1d(failed) & (goods == good)
        for index in np.flatnonzero(own & ~finite):
            # A bad parameter that the loss did not show at once: find the step that made it.
            sound = partial(lambda i, k: bool(after(k)[1][i]), index)
            last = bisect_left(range(good + 1), True, key=lambda k: not sound(k)) - 1
            goods[index] = last
            alone = np.arange(len(goods)) == index
            state = merged(alone.reshape(failed.shape), after(last)[0], state)
        seen = own & finite
        if seen.any():
            state = merged(seen.reshape(failed.shape), there, state)
            failure = f"the loss became {losses[..., good]}"
    if not failed.ndim:
        return state, losses[: goods[0]], failure
    kept = ~failed[:, None] | (np.arange(width) < goods[:, None])
    return state, np.where(kept, losses, np.asarray(np.nan, losses.dtype)), failure


def _evaluated(run: Run, measured: Metrics, task: Task) -> Run:
    """Return the run with an evaluation of its end; NaN of what is not finite."""
    for values in measured.values() if run.alive.ndim else ():
        for name, value in values.items():
            values[name] = np.where(run.alive, value, np.asarray(np.nan, value.dtype))
    end = run.done - 1
    run = run._replace(evaluations=(*run.evaluations, (end, measured)))
    if (stopping := task.early_stopping) is None or best_step(run.evaluations, stopping)[0] != end:
        return run
    best = Best(end, measured[stopping.part][stopping.metric], run.state.params)
    scheduled = best if _on_schedule(run.evaluations[-1:], task) else run.scheduled
    return run._replace(best=best, scheduled=scheduled)


class Cut(NamedTuple):
    """The next steps to run in one go, and what comes after them."""

    num_steps: int
    evaluates: bool
    ends: bool
    """A stretch that callbacks are told of ends here."""


def next_cut(done: int, pace: float, task: Task, max_steps: int) -> Cut:
    """Return how far to go from `done` steps, at a pace in seconds per step (0: unknown)."""
    steps, every, stretch = task.steps, task.eval_every, task.stretch
    next_evaluation = steps if every is None else min(steps, done + 1 + -done % every)
    boundary = steps if stretch is None else done + stretch - done % stretch
    patience = int(_STRETCH_SECONDS / pace) if pace else _FIRST_STRETCH
    num_steps = max(1, min(max_steps, next_evaluation - done, boundary - done, patience))
    end = done + num_steps
    ends = stretch is None or end in (boundary, next_evaluation)
    return Cut(num_steps, every is not None and end == next_evaluation, ends)


def longest_cut(task: Task, networks: int = 1) -> int:
    """Return how many steps one call of a program has room for.

    Its batches are drawn at once: not more than a few MB, however large each is.
    """
    intervals = [i for i in (task.steps, task.eval_every, task.stretch) if i is not None]
    return max(1, min(_MAX_STRETCH, _MAX_DRAWN // (task.batch_size * networks), *intervals))


@contextmanager
def bar(total: int, done: int, shown: bool) -> Iterator[Callable[[Run, int], None]]:
    """Show progress on stderr, where that is a terminal or a notebook; yield what tells it."""
    if not shown or sys.stderr is None:
        yield lambda run, num_steps: None
        return
    notebook = "ipykernel" in sys.modules
    tqdm = import_module("tqdm.auto" if notebook else "tqdm").tqdm
    with tqdm(total=total, initial=done, unit="step", disable=None, dynamic_ncols=True) as shown_bar:

        def tell(run: Run, num_steps: int) -> None:
            shown_bar.update(num_steps)
            if run.alive.any() and not shown_bar.disable:
                last = {"loss": run.losses[-1][..., -1]}
                if run.evaluations:
                    for part, values in run.evaluations[-1][1].items():
                        last |= {f"{part} {name}": value for name, value in values.items()}
                means = {name: np.mean(np.asarray(value)[run.alive]) for name, value in last.items()}
                shown_bar.set_postfix({name: f"{mean:.4g}" for name, mean in means.items()}, refresh=False)

        yield tell
