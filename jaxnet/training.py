"""Mini-batch training of any pure `loss(params, x, t)`, whole stretches of steps compiled as one program.

Source: 4.3 (the loop) and 4.4 (its evaluation). The batch of step s is a function of `(key, s)` alone, so
that a run does not depend on how it is cut into stretches.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num, PRNGKeyArray

from jaxnet._checks import (
    Task,
    batch_error,
    check_early_stopping,
    check_metrics,
    check_optimizer,
    check_params,
    check_positive_int,
    check_resumable,
    check_task,
)
from jaxnet._steps import (
    BATCH_SIZE,
    LEARNING_RATE,
    STEPS,
    Loss,
    PyTree,
    Sampling,
    TrainState,
    draw_batches,
    evaluate,
    init_state,
    longest_cut,
    next_cut,
    stretch_program,
    train_step,
)

__all__ = [
    "BATCH_SIZE",
    "LEARNING_RATE",
    "STEPS",
    "Best",
    "EarlyStopping",
    "FitResult",
    "History",
    "NonFiniteError",
    "Stretch",
    "TrainState",
    "draw_batches",
    "fit",
    "init_state",
    "train_step",
]

Part = Literal["train", "validation", "test"]
Metrics = dict[str, dict[str, np.floating]]  # of each part, by name


class History(NamedTuple):
    """What a run recorded, as NumPy arrays."""

    loss: Float[np.ndarray, " steps"]
    """The loss of each step's batch: before its update, or after it with `loss_after_update=True`."""
    eval_step: Int[np.ndarray, " evals"]
    """The steps (from 0) right after whose update the metrics were taken."""
    train: dict[str, Float[np.ndarray, " evals"]]
    test: dict[str, Float[np.ndarray, " evals"]]
    validation: dict[str, Float[np.ndarray, " evals"]]


class EarlyStopping(NamedTuple):
    """When to end a run that no longer gets better: after `patience` evaluations in a row without a gain.

    A gain is a metric below (mode "min") or above ("max") the best so far by more than min_delta; NaN is
    none. `metric` is a name among the metrics of `fit`, measured on `part`.
    """

    metric: str = "loss"
    part: Part = "validation"
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0


class Best(NamedTuple):
    """The best evaluation of a run with early stopping."""

    step: int
    """The step (from 0) right after whose update it was."""
    value: np.floating
    params: PyTree


class FitResult(NamedTuple):
    """The end of a run: its last state, its history, and how it went."""

    state: TrainState
    history: History
    interrupted: bool
    """Ctrl-C ended the run early."""
    compile_seconds: float
    train_seconds: float
    """Compilation and evaluation apart."""
    best: Best | None = None
    """With early stopping, the best evaluation so far."""
    stopped_early: bool = False

    @property
    def params(self) -> PyTree:
        """The parameters after the last step, or with early stopping the best ones."""
        return self.state.params if self.best is None else self.best.params


class Stretch(NamedTuple):
    """What a callback is told after each stretch of steps."""

    state: TrainState
    loss: Float[np.ndarray, " steps"]
    """Losses of this stretch alone."""
    train: dict[str, np.floating]
    """The metrics taken at its end; empty between two evaluations."""
    test: dict[str, np.floating]
    seconds: float
    validation: dict[str, np.floating]
    best: Best | None = None
    """With early stopping, the best evaluation so far."""


class NonFiniteError(FloatingPointError):
    """The loss or the parameters became NaN or infinite at `step`; `result` is the run up to that step."""

    def __init__(self, what: str, step: int, result: FitResult):
        self.what = what
        self.reason = f"{what} at step {step}"
        super().__init__(f"{self.reason}; .result holds the run up to there")
        self.step = step
        self.result = result

    def __reduce__(self) -> tuple[type, tuple[str, int, FitResult]]:
        return type(self), (self.what, self.step, self.result)


def fit(
    loss: Loss,
    params: PyTree,
    train: tuple[Num[ArrayLike, "n ..."], Num[ArrayLike, "n ..."]],
    *,
    test: tuple[Num[ArrayLike, "m ..."], Num[ArrayLike, "m ..."]] | None = None,
    validation: tuple[Num[ArrayLike, "v ..."], Num[ArrayLike, "v ..."]] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    key: PRNGKeyArray | None = None,
    sampling: Sampling = "replacement",
    batches: Int[ArrayLike, "steps batch"] | None = None,
    metrics: Mapping[str, Loss] | None = None,
    eval_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    loss_after_update: bool = False,
    callbacks: Sequence[Callable[[Stretch], object]] = (),
    stretch: int | None = None,
    resume: FitResult | None = None,
    progress: bool = True,
) -> FitResult:
    """Train `params` by mini-batch steps of an optax optimizer and return the last state and the history.

    loss: pure `loss(params, x, t)`, a scalar, traceable by JAX. train, test, validation: `(x, t)`, examples
    on the first axis. optimizer: SGD at 0.1 by default; batch_size: 100; steps: 10,000; key:
    `jax.random.key(0)`: the source's (4.3).

    sampling: how `draw_batches` draws each batch; or batches: explicit indices [steps, batch] into train,
    which also set steps and batch_size.

    metrics: pure functions like the loss, by name, evaluated on the whole of each part right after the
    update of every step i with `i % eval_every == 0`; eval_every: once per epoch, `max(n // batch_size, 1)`,
    as the source (4.4). Without metrics nothing is evaluated, or the loss if there is a test or validation
    set.

    early_stopping: ends the run when a metric no longer gets better; the result's params are then the best.

    loss_after_update: record the loss of each batch after its update, as the source does, which costs another
    forward pass; by default it is recorded before.

    callbacks: called with a `Stretch` after each stretch of steps. One ends at every evaluation, at the last
    step, and at each multiple of `stretch` steps, or, by default, every half a second or so. progress: a bar
    on stderr, where that is a terminal.

    Ctrl-C ends the run within about half a second; what is done is returned, with `interrupted` set.

    resume: a result of the same run to continue up to `steps` in all; params then only have to be like its
    own. The end is bit for bit that of the run that was never interrupted.

    Raises:
        ValueError: shapes or lengths that do not fit, an empty set, NaN or infinity in the data or params,
            sizes or steps that are not positive, an index in batches out of range, an unknown sampling, a
            result to resume that is not of such a run; or what the loss itself finds wrong with a batch, from
            a NonFiniteError as its cause.
        TypeError: batches or sizes that are not integers, params that are not floating-point, an optimizer
            that is not optax's, a loss that does not return a real scalar.
        NonFiniteError: the loss or a parameter became NaN or infinite; it holds the step, and the result up
            to the last finite state.

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> result = fit(square, jnp.array(0.0), (np.ones(8), np.full(8, 3.0)), steps=100, batch_size=4)
    >>> round(float(result.params), 3), result.history.loss.shape
    (3.0, (100,))
    """
    task = check_task(
        loss,
        {"train": train, "validation": validation, "test": test},
        batches=batches,
        steps=steps,
        batch_size=batch_size,
        sampling=sampling,
        metrics=metrics,
        eval_every=eval_every,
    )
    parts, steps, metrics = task.parts, task.steps, task.metrics
    optimizer = check_optimizer(optimizer)
    stretch = None if stretch is None else check_positive_int(stretch, "stretch")
    if early_stopping is not None:
        check_early_stopping(early_stopping, task)
    max_steps = longest_cut(task.batch_size, steps, stretch, task.eval_every)
    run = partial(
        stretch_program(jax.default_backend()),
        x=parts["train"][0],
        t=parts["train"][1],
        batches=task.batches,
        loss=loss,
        optimizer=optimizer,
        batch_size=task.batch_size,
        sampling=sampling,
        loss_after_update=loss_after_update,
        max_steps=max_steps,
    )
    state = init_state(params, optimizer, key)
    check_metrics(task, state.params)
    check_params(state.params)

    best: Best | None = None
    losses: list[np.ndarray] = []
    evaluations: list[tuple[int, Metrics]] = []
    compile_seconds = train_seconds = 0.0
    if resume is not None:
        state = check_resumable(resume.state, state, steps, key)
        losses.append(resume.history.loss)
        evaluations = _evaluations(resume.history, tuple(metrics), parts)
        compile_seconds, train_seconds = resume.compile_seconds, resume.train_seconds
        if early_stopping is not None:
            best = _resumed_best(resume.best, evaluations, early_stopping)
    done, pace = int(state.step), 0.0
    # One name, so that an interrupt sees either the old pair or the new one.
    reached = state, best

    def stops() -> bool:
        return early_stopping is not None and _best_step(evaluations, early_stopping)[1]

    def result(interrupted: bool = False) -> FitResult:
        state, best = reached
        # An interrupt may have come between the recording of a stretch and its state: the state decides.
        history = _history(losses, evaluations, parts, tuple(metrics), int(state.step))
        stopped = not interrupted and stops()
        return FitResult(state, history, interrupted, compile_seconds, train_seconds, best, stopped)

    from tqdm import tqdm

    bar = tqdm(total=steps, initial=done, unit="step", disable=None if progress else True, dynamic_ncols=True)
    try:
        start = time.perf_counter()
        jax.block_until_ready(run(state, jnp.int32(0)))
        compile_seconds += time.perf_counter() - start
        recorded, stretch_seconds = len(losses), 0.0
        shown: dict[str, str] = {}
        while done < steps and not stops():
            cut = next_cut(
                done, pace, steps=steps, max_steps=max_steps, eval_every=task.eval_every, stretch=stretch
            )
            start = time.perf_counter()
            new_state, new_losses, finite = run(state, jnp.int32(cut.num_steps))
            host_losses = np.asarray(new_losses)[: cut.num_steps]
            seconds = time.perf_counter() - start
            if not (finite and np.isfinite(host_losses).all()):
                num_steps, state, what = _last_finite(run, state, host_losses)
                losses.append(host_losses[:num_steps])
                reached = state, best
                failure = NonFiniteError(what, done + num_steps, result())
                if (error := batch_error(loss, state, failure.step, task, sampling)) is not None:
                    raise error from failure
                raise failure
            train_seconds += seconds
            stretch_seconds += seconds
            pace = seconds / cut.num_steps
            losses.append(host_losses)
            done += cut.num_steps
            measured: Metrics = {}
            if cut.evaluates:
                measured = _measure(new_state.params, task)
                evaluations.append((done - 1, measured))
                if early_stopping is not None and _best_step(evaluations, early_stopping)[0] == done - 1:
                    value = measured[early_stopping.part][early_stopping.metric]
                    best = Best(done - 1, value, new_state.params)
                shown = {
                    f"{part} {name}": f"{value:.4g}"
                    for part in measured
                    for name, value in measured[part].items()
                }
            state = new_state
            reached = state, best
            bar.update(cut.num_steps)
            bar.set_postfix({"loss": f"{host_losses[-1]:.4g}"} | shown, refresh=False)
            if cut.ends:
                told = Stretch(
                    state,
                    np.concatenate(losses[recorded:]),
                    measured.get("train", {}),
                    measured.get("test", {}),
                    stretch_seconds,
                    measured.get("validation", {}),
                    best,
                )
                recorded, stretch_seconds = len(losses), 0.0
                for callback in callbacks:
                    callback(told)
    except KeyboardInterrupt:
        return result(interrupted=True)
    finally:
        bar.close()
    return result()


def _measure(params: PyTree, task: Task) -> Metrics:
    """Return every metric on every part."""
    measured: Metrics = {}
    for part, examples in task.parts.items():
        values = evaluate(params, *examples, metrics=tuple(task.metrics.items()))
        measured[part] = {name: value.dtype.type(value) for name, value in values.items()}
        for name, value in measured[part].items():
            if np.isnan(value):
                task.metrics[name](params, *examples)  # not compiled, it can say what is wrong
    return measured


def _best_step(
    evaluations: Sequence[tuple[int, Metrics]], stopping: EarlyStopping
) -> tuple[int | None, bool]:
    """Return the step of the best evaluation, if any, and whether the run has gone on long enough since."""
    best, best_step, waited = None, None, 0
    sign = 1 if stopping.mode == "min" else -1
    for step, measured in evaluations:
        value = sign * float(measured[stopping.part][stopping.metric])
        if not np.isnan(value) and (best is None or value < best - stopping.min_delta):
            best, best_step, waited = value, step, 0
        else:
            waited += 1
    return best_step, waited >= stopping.patience


def _resumed_best(
    best: Best | None, evaluations: Sequence[tuple[int, Metrics]], stopping: EarlyStopping
) -> Best | None:
    """Return the best evaluation of the run to resume, or say that it is not this early stopping's."""
    expected, got = _best_step(evaluations, stopping)[0], None if best is None else best.step
    if got != expected:
        raise ValueError(
            f"resume must be of a run with this early stopping, whose best evaluation is after step "
            f"{expected}, got {'no best' if got is None else got}"
        )
    return best


def _evaluations(
    history: History, names: tuple[str, ...], parts: Mapping[str, object]
) -> list[tuple[int, Metrics]]:
    """Return the evaluations that `_history` made a history of."""
    found: dict[str, dict[str, np.ndarray]]
    found = {"train": history.train, "validation": history.validation, "test": history.test}
    expected = {part: names if part in parts else () for part in found}
    for part, curves in found.items():
        if tuple(curves) != expected[part]:
            raise ValueError(
                f"resume must hold the {part} metrics {list(expected[part])}, got {list(curves)}"
            )
    return [
        (int(step), {part: {name: found[part][name][i] for name in names} for part in parts})
        for i, step in enumerate(history.eval_step)
    ]


def _history(
    losses: list[np.ndarray],
    evaluations: list[tuple[int, Metrics]],
    parts: Mapping[str, object],
    names: tuple[str, ...],
    steps: int,
) -> History:
    kept = [(step, measured) for step, measured in evaluations if step < steps]

    def curves(part: str) -> dict[str, np.ndarray]:
        return {
            name: np.array([measured[part][name] for _, measured in kept]) for name in names if part in parts
        }

    loss = np.concatenate(losses)[:steps] if losses else np.zeros(0, np.float32)
    eval_step = np.array([step for step, _ in kept], int)
    return History(loss, eval_step, curves("train"), curves("test"), curves("validation"))


def _last_finite(
    run: Callable[..., tuple[TrainState, Array, Array]], start: TrainState, losses: np.ndarray
) -> tuple[int, TrainState, str]:
    """Return how many steps after `start` all was finite, the state there, and what went wrong next.

    The run is deterministic, so it is done again up to where it was last good.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    good = int(bad[0]) if len(bad) else len(losses)
    what = f"the loss became {losses[good]}" if len(bad) else ""
    state, _, finite = run(start, jnp.int32(good))
    if not finite:
        # A bad parameter that the loss did not show at once: find the step that made it.
        what, low = "a parameter became non-finite", 0
        while good - low > 1:
            middle = (low + good) // 2
            low, good = (middle, good) if run(start, jnp.int32(middle))[2] else (low, middle)
        good = low
        state = run(start, jnp.int32(good))[0]
    return good, state, what
