"""The one loop of `fit` and `fit_many`: a run, and the stretches of steps that extend it."""

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Shaped

from jaxnet.sharding import fetched
from jaxnet.training import disk
from jaxnet.training.body import Record, merged
from jaxnet.training.program import Evaluate, Metrics
from jaxnet.training.state import PyTree, TrainState, weights_of
from jaxnet.training.task import EarlyStopping, Task, batch_error

Train = Callable[[TrainState, int, int], tuple[TrainState, Record, np.ndarray]]
Agree = Callable[[float, bool], tuple[float, bool]]

_MAX_STRETCH = 1000  # steps
_MAX_DRAWN = 2**20  # examples
_MAX_EXCHANGED = 2**24  # bytes
_MAX_RECORDED = 2**26  # bytes
_FIRST_STRETCH = 20  # steps, while their pace is unknown
_STRETCH_SECONDS = 0.5  # how long a Ctrl-C or the progress bar may have to wait
PARTS = ("train", "test", "validation")


class History(NamedTuple):
    """What a run recorded, as NumPy arrays; of many networks they have these on the first axis."""

    loss: Float[np.ndarray, "... steps"]
    """The loss of each step's batch: before its update, or after it with `loss_after_update=True`."""
    eval_step: Int[np.ndarray, " evals"]
    """The steps (from 0) right after whose update the metrics were taken."""
    train: dict[str, Shaped[np.ndarray, "..."]]
    """The metrics by name, each [..., evals], and of a metric that is an array its axes after that."""
    test: dict[str, Shaped[np.ndarray, "..."]]
    validation: dict[str, Shaped[np.ndarray, "..."]]
    aux: Mapping[str, Shaped[np.ndarray, "..."]] = {}
    """Of each step what the loss returns with `has_aux`, by its path, and what `track` names."""


class Best(NamedTuple):
    """The best evaluation of a run with early stopping; of many networks, each with its own."""

    step: Int[np.ndarray, " networks"] | int
    """The step (from 0) right after whose update it was; of many networks -1 where there was none."""
    value: Any
    params: PyTree
    """What was evaluated: those of that step, or their average with `averaged`."""
    model_state: PyTree = ()


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
    aux: Mapping[str, Any] = {}
    """As in the history, of this stretch alone."""


class Watch(NamedTuple):
    """What early stopping has seen of each network."""

    best: Float[np.ndarray, "..."]
    """The metric, with the sign that makes less better."""
    step: Int[np.ndarray, "..."]
    """Of the best evaluation; -1 for none."""
    waited: Int[np.ndarray, "..."]
    """Evaluations since."""


class Run(NamedTuple):
    """All that a run has come to: a stretch extends it, a result is made of it, resuming starts from one."""

    state: TrainState
    alive: Bool[np.ndarray, "..."]
    """Whether all was finite so far; [] or [networks]."""
    done: int = 0
    records: tuple[Record, ...] = ()  # of [..., steps, ...], in few pieces
    evaluations: tuple[tuple[int, Metrics], ...] = ()
    scheduled: Best | None = None
    """The best of the evaluations that a longer run would have too."""
    watch: Watch | None = None
    """Of these evaluations."""
    best: Best | None = None
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    failure: str = ""
    """What became non-finite, where one network's run ends with it."""
    ended: bool = False
    """A callback ended it."""

    def stopped_early(self, task: Task) -> Bool[np.ndarray, "..."]:
        """Whether early stopping ends the run here; [] or [networks]."""
        if task.early_stopping is None or self.watch is None:
            return np.zeros(self.alive.shape, bool)
        return np.asarray(self.watch.waited >= task.early_stopping.patience)

    def active(self, task: Task) -> Bool[np.ndarray, "..."]:
        """Whether there are steps to take yet; [] or [networks]."""
        going = self.done < task.steps and not self.ended
        return np.asarray(self.alive & ~self.stopped_early(task) & going)


def fetched_run(run: Run, mesh: Mesh | None) -> Run:
    """Return a run whose states this process can use alone; all processes must ask for it together."""
    return run._replace(
        state=fetched(run.state, mesh), best=fetched(run.best, mesh), scheduled=fetched(run.scheduled, mesh)
    )


def history_of(run: Run, task: Task) -> History:
    """Return what a run recorded."""
    empty = np.zeros((*run.alive.shape, 0), np.float32)

    def curves(part: str) -> dict[str, np.ndarray]:
        found = [measured for _, measured in run.evaluations]
        if part not in task.eval_parts:
            return {}
        if not found:
            return dict.fromkeys(task.metrics, empty)
        return {name: np.stack([m[part][name] for m in found], axis=run.alive.ndim) for name in task.metrics}

    record = joined(run.records) if run.records else Record(empty, {})
    steps = np.array([step for step, _ in run.evaluations], int)
    train, test, validation = map(curves, PARTS)
    return History(record.loss, steps, train, test, validation, record.aux)


def joined(records: Sequence[Record]) -> Record:
    """Return the records of successive steps as one."""
    axis = records[0].loss.ndim - 1
    result: Record = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *records)
    return result


def with_nan(dtype: np.dtype) -> np.dtype:
    """Return the dtype, or one for its numbers that has NaN."""
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else np.dtype(float)


def kept_where(kept: Bool[np.ndarray, "..."], values: np.ndarray) -> np.ndarray:
    """Return values with NaN where not kept, whose axes are the first ones of values."""
    if kept.all():
        return values
    dtype = with_nan(values.dtype)
    kept = kept.reshape(kept.shape + (1,) * (values.ndim - kept.ndim))
    return np.where(kept, values.astype(dtype), np.asarray(np.nan, dtype))


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
    axis = fresh.alive.ndim
    evaluations = tuple(
        (
            int(step),
            {
                part: {name: np.take(getattr(history, part)[name], i, axis=axis) for name in task.metrics}
                for part in task.eval_parts
            },
        )
        for i, step in enumerate(history.eval_step)
        if step < done
    )
    kept = _on_schedule(evaluations, task)
    scheduled, last = best
    watch = None
    if stopping := task.early_stopping:
        for evaluation in kept:
            watch = watched(watch, evaluation, stopping, fresh.alive.shape)
        none = np.full(fresh.alive.shape, -1)
        expected_best = none if watch is None else watch.step
        got_best = none if scheduled is None else np.asarray(scheduled.step)
        if (got_best != expected_best).any():
            found, got = (step.tolist() for step in (expected_best, got_best))
            raise ValueError(
                f"resume must be of a run with this early stopping, whose best evaluation is after step "
                f"{found}, got {'no best' if got == -1 else got}"
            )
    else:
        scheduled = last = None
    if done < task.steps:
        evaluations, last = kept, scheduled
    record = jax.tree.map(
        lambda leaf: leaf[(slice(None),) * axis + (slice(done),)], Record(history.loss, dict(history.aux))
    )
    return fresh._replace(
        state=state,
        done=done,
        records=(record,) if done else (),
        evaluations=evaluations,
        scheduled=scheduled,
        watch=watch,
        best=last,
    )


def check_recorded(run: Run, record: Record) -> None:
    """Refuse to go on with a run of which something else was recorded."""
    if run.records and list(run.records[0].aux) != list(record.aux):
        expected, got = list(record.aux), list(run.records[0].aux)
        raise ValueError(f"resume must be of a run that recorded {expected} of each step, got {got}")


def watched(
    watch: Watch | None, evaluation: tuple[int, Metrics], stopping: EarlyStopping, shape: tuple[int, ...]
) -> Watch:
    """Return what early stopping knows after one evaluation more; shape: [] or [networks]."""
    best, found, waited = watch or (np.full(shape, start) for start in (np.inf, -1, 0))
    step, measured = evaluation
    sign = -1 if stopping.mode == "max" else 1
    value = sign * np.asarray(measured[stopping.part][stopping.metric], float)
    gains = ~np.isnan(value) & ((found < 0) | (value < best - stopping.min_delta))
    found = np.where(gains, step, found)
    return Watch(np.where(gains, value, best), found, np.where(gains, 0, waited + 1))


def _on_schedule(evaluations: tuple[tuple[int, Metrics], ...], task: Task) -> tuple[tuple[int, Metrics], ...]:
    return tuple(found for found in evaluations if task.eval_every and found[0] % task.eval_every == 0)


def stretches(
    run: Run, train: Train, measure: Evaluate, task: Task, max_steps: int, agree: Agree
) -> Iterator[tuple[Run, Stretch | None]]:
    """Yield the run after each few steps, and what callbacks are told where a stretch ends there.

    It ends with the task's steps, with early stopping, or where nothing is finite any more. agree: see
    `sharding.together`.
    """
    pace, pieces, seconds = 0.0, [], 0.0
    while run.active(task).any():
        cut = next_cut(run.done, pace, task, max_steps)
        start = time.perf_counter()
        run, record = _extended(run, train, cut.num_steps, task)
        taken = time.perf_counter() - start
        run = run._replace(train_seconds=run.train_seconds + taken)
        if run.failure:
            yield run, None
            return
        pace, seconds = agree(taken / cut.num_steps, False)[0], seconds + taken
        pieces.append(record)
        measured: Metrics = {}
        if cut.evaluates:
            run, measured = _evaluated(run, measure(run.state), task)
        told = None
        if cut.ends:
            curves = {part: measured.get(part, {}) for part in PARTS}
            loss, aux = joined(pieces)
            told = Stretch(
                run.state,
                loss,
                curves["train"],
                curves["test"],
                seconds,
                curves["validation"],
                run.best,
                aux=aux,
            )
            pieces, seconds = [], 0.0
        yield run, told


def _extended(run: Run, train: Train, num_steps: int, task: Task) -> tuple[Run, Record]:
    """Return the run some steps later, and their record; what is not finite stays where it last was."""
    state, record, finite = train(run.state, run.done, num_steps)
    going, alive, failure = run.active(task), run.alive, ""
    if task.on_nonfinite == "stop":
        alive = np.asarray(run.alive & (~going | (finite & np.isfinite(record.loss).all(axis=-1))))
    if not going.all():  # what has ended stays as it was
        state = merged(going, state, run.state)
        record = jax.tree.map(lambda leaf: kept_where(going, leaf), record)
    if (failed := np.asarray(run.alive & ~alive)).any():
        state, record, failure = _rewound(run, train, state, record, failed)
        for index in np.flatnonzero(failed) if failed.ndim else ():
            if (error := batch_error(state, task, int(index))) is not None:
                raise error
    if failure and not alive.ndim:
        num_steps = record.loss.shape[-1]
    else:
        failure = ""
    pieces = (*run.records, record)
    while len(pieces) > 1 and pieces[-2].loss.shape[-1] <= pieces[-1].loss.shape[-1]:  # so that they stay few
        pieces = (*pieces[:-2], joined(pieces[-2:]))
    done = run.done + num_steps
    return run._replace(state=state, alive=alive, done=done, records=pieces, failure=failure), record


def _rewound(
    run: Run, train: Train, state: TrainState, record: Record, failed: np.ndarray
) -> tuple[TrainState, Record, str]:
    """Return the state with the failed networks as they last were finite, the record up to there, and why.

    The program is deterministic and can be cut anywhere: so it is run again, up to where it was last good.
    One that looked at every step would, with Adam, differ in the last bits.
    """
    losses = record.loss
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
        return state, jax.tree.map(lambda leaf: leaf[: goods[0]], record), failure
    kept = ~failed[:, None] | (np.arange(width) < goods[:, None])
    return state, jax.tree.map(lambda leaf: kept_where(kept, leaf), record), failure


def _evaluated(run: Run, measured: Metrics, task: Task) -> tuple[Run, Metrics]:
    """Return the run with an evaluation of its end, which is NaN of what had ended before, and that."""
    going = run.alive & ~run.stopped_early(task)
    if run.alive.ndim:
        measured = {
            part: {name: kept_where(going, value) for name, value in values.items()}
            for part, values in measured.items()
        }
    end = run.done - 1
    run = run._replace(evaluations=(*run.evaluations, (end, measured)))
    if (stopping := task.early_stopping) is None:
        return run, measured
    watch = watched(run.watch, (end, measured), stopping, run.alive.shape)
    on_schedule = bool(_on_schedule(run.evaluations[-1:], task))
    run = run._replace(watch=watch if on_schedule else run.watch)
    better = watch.step == end
    if not better.any():
        return run, measured
    new = Best(
        np.full(better.shape, end) if better.ndim else end,
        measured[stopping.part][stopping.metric],
        *weights_of(run.state),
    )
    if not better.all():
        old = run.best or new._replace(step=np.full(better.shape, -1), value=new.value * np.nan)
        step, value = np.where(better, new.step, old.step), np.where(better, new.value, old.value)
        new = Best(step, value, *merged(better, new[2:], old[2:]))
    scheduled = new if on_schedule else run.scheduled
    return run._replace(best=new, scheduled=scheduled), measured


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
    # Of batches from disk, to the end of those that are read at once.
    room = max_steps - done % max_steps if "train" in task.on_disk else max_steps
    num_steps = max(1, min(room, next_evaluation - done, boundary - done, patience))
    end = done + num_steps
    ends = stretch is None or end in (boundary, next_evaluation)
    return Cut(num_steps, every is not None and end == next_evaluation, ends)


def longest_cut(task: Task, networks: int = 1, own: bool = False) -> int:
    """Return how many steps one call of a program has room for.

    Its batches are drawn at once: not more than a few MB, however large each is. So are they exchanged among
    devices, and so are auxiliary values kept there. networks: in the program; own: each with batches of its
    own.
    """
    train, most = task.parts["train"], min(_MAX_STRETCH, task.steps)
    if task.aux_bytes:
        most = max(1, min(most, _MAX_RECORDED // (task.aux_bytes * networks)))
    if (source := task.on_disk.get("train")) is not None:
        at_once = disk.PIECE // (disk.row_bytes(source) * task.batch_size)
        return max(1, min(most, at_once))
    if train.layout is not None and train.layout.parts > 1:
        size: int = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(train)) * task.batch_size
        return max(1, min(most, _MAX_EXCHANGED // size))
    intervals = [i for i in (task.eval_every, task.stretch) if i is not None]
    return max(1, min(most, _MAX_DRAWN // (task.batch_size * (networks if own else 1)), *intervals))


def told_to_stop(callbacks: Sequence[Callable[[Stretch], object]], stretch: Stretch) -> bool:
    """Tell every callback of a stretch; return whether one of them ends the run."""
    answers = [callback(stretch) for callback in callbacks]
    return any(isinstance(answer, str) and answer == "stop" for answer in answers)


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
                last = {"loss": run.records[-1].loss[..., -1]}
                if run.evaluations:
                    for part, values in run.evaluations[-1][1].items():
                        last |= {f"{part} {n}": v for n, v in values.items() if v.ndim == run.alive.ndim}
                known = {name: np.asarray(value)[~np.isnan(value)] for name, value in last.items()}
                means = {name: f"{np.mean(values):.4g}" for name, values in known.items() if values.size}
                shown_bar.set_postfix(means, refresh=False)

        yield tell
