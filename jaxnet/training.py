"""Mini-batch training of any pure `loss(params, x, t)`, whole stretches of steps compiled as one program.

Source: 4.3 (the loop) and 4.4 (its evaluation). The batch of step s is a function of `(key, s)` alone, so
that a run does not depend on how it is cut into stretches.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num, PRNGKeyArray

from jaxnet._checks import check_batches, check_examples, check_optimizer, check_positive_int, check_resumable
from jaxnet._steps import (
    BATCH_SIZE,
    LEARNING_RATE,
    STEPS,
    Loss,
    PyTree,
    Sampling,
    TrainState,
    all_finite,
    draw_batches,
    evaluate,
    init_state,
    stretch_program,
    train_step,
)

__all__ = [
    "BATCH_SIZE",
    "LEARNING_RATE",
    "STEPS",
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

Metrics = dict[str, dict[str, np.floating]]  # of "train" and "test", by name

_MAX_STRETCH = 1000  # steps
_MAX_DRAWN = 2**20  # examples
_FIRST_STRETCH = 20  # steps, while their pace is unknown
_STRETCH_SECONDS = 0.5  # how long a Ctrl-C or the progress bar may have to wait


class History(NamedTuple):
    """What a run recorded, as NumPy arrays."""

    loss: Float[np.ndarray, " steps"]
    """The loss of each step's batch: before its update, or after it with `loss_after_update=True`."""
    eval_step: Int[np.ndarray, " evals"]
    """The steps (from 0) right after whose update the metrics were taken."""
    train: dict[str, Float[np.ndarray, " evals"]]
    test: dict[str, Float[np.ndarray, " evals"]]


class FitResult(NamedTuple):
    """The end of a run: its last state, its history, and how it went."""

    state: TrainState
    history: History
    interrupted: bool
    """Ctrl-C ended the run early."""
    compile_seconds: float
    train_seconds: float
    """Compilation and evaluation apart."""

    @property
    def params(self) -> PyTree:
        """The parameters after the last step."""
        return self.state.params


class Stretch(NamedTuple):
    """What a callback is told after each stretch of steps."""

    state: TrainState
    loss: Float[np.ndarray, " steps"]
    """Losses of this stretch alone."""
    train: dict[str, np.floating]
    """The metrics taken at its end; empty between two evaluations."""
    test: dict[str, np.floating]
    seconds: float


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
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    key: PRNGKeyArray | None = None,
    sampling: Sampling = "replacement",
    batches: Int[ArrayLike, "steps batch"] | None = None,
    metrics: Mapping[str, Loss] | None = None,
    eval_every: int | None = None,
    loss_after_update: bool = False,
    callbacks: Sequence[Callable[[Stretch], object]] = (),
    stretch: int | None = None,
    resume: FitResult | None = None,
    progress: bool = True,
) -> FitResult:
    """Train `params` by mini-batch steps of an optax optimizer and return the last state and the history.

    loss: pure `loss(params, x, t)`, a scalar, traceable by JAX. train, test: `(x, t)`, examples on the first
    axis. optimizer: SGD at 0.1 by default; batch_size: 100; steps: 10,000; key: `jax.random.key(0)`: the
    source's (4.3).

    sampling: how `draw_batches` draws each batch; or batches: explicit indices [steps, batch] into train,
    which also set steps and batch_size.

    metrics: pure functions like the loss, by name, evaluated on the whole of train and test right after the
    update of every step i with `i % eval_every == 0`; eval_every: once per epoch, `max(n // batch_size, 1)`,
    as the source (4.4). Without metrics nothing is evaluated, or the loss if there is a test set.

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
    x, t = check_examples(train, "train")
    optimizer = check_optimizer(optimizer)
    if batches is not None:
        batches = check_batches(batches, len(x), steps, batch_size)
        steps, batch_size = batches.shape
    steps = check_positive_int(STEPS if steps is None else steps, "steps")
    batch_size = check_positive_int(BATCH_SIZE if batch_size is None else batch_size, "batch_size")
    if sampling not in ("replacement", "shuffle"):
        raise ValueError(f"sampling must be 'replacement' or 'shuffle', got {sampling!r}")
    if metrics is None:
        metrics = {} if test is None else {"loss": loss}
    elif not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to functions, got {type(metrics).__name__}")
    parts = {"train": (x, t)}
    if test is not None:
        parts["test"] = check_examples(test, "test", x.shape[1:])
    eval_every = check_positive_int(
        max(len(x) // batch_size, 1) if eval_every is None else eval_every, "eval_every"
    )
    stretch = None if stretch is None else check_positive_int(stretch, "stretch")
    # The batches of one call of the program are drawn at once: not more than a few MB, however large each is.
    interval = min(stretch or steps, eval_every if metrics else steps)
    max_steps = max(1, min(_MAX_STRETCH, steps, interval, _MAX_DRAWN // batch_size))
    run = partial(
        stretch_program(jax.default_backend()),
        x=x,
        t=t,
        batches=batches,
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        sampling=sampling,
        loss_after_update=loss_after_update,
        max_steps=max_steps,
    )
    state = init_state(params, optimizer, key)
    for name, metric in metrics.items():
        for examples in parts.values():
            value = jax.eval_shape(metric, state.params, *examples)
            if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
                got = getattr(value, "shape", type(value).__name__)
                raise TypeError(f"the metric {name!r} must return a scalar, got {got}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"params{jax.tree_util.keystr(path)} must be floating-point, got {leaf.dtype}")
    if not all_finite(state.params):
        raise ValueError("params must be finite, got NaN or infinity")

    losses: list[np.ndarray] = []
    evaluations: list[tuple[int, Metrics]] = []
    compile_seconds = train_seconds = 0.0
    if resume is not None:
        state = check_resumable(resume.state, state, steps, key)
        losses.append(resume.history.loss)
        evaluations = _evaluations(resume.history, tuple(metrics), parts)
        compile_seconds, train_seconds = resume.compile_seconds, resume.train_seconds
    done, pace = int(state.step), 0.0

    def result(interrupted: bool = False) -> FitResult:
        # An interrupt may have come between the recording of a stretch and its state: the state decides.
        history = _history(losses, evaluations, parts, tuple(metrics), int(state.step))
        return FitResult(state, history, interrupted, compile_seconds, train_seconds)

    from tqdm import tqdm

    bar = tqdm(total=steps, initial=done, unit="step", disable=None if progress else True, dynamic_ncols=True)
    try:
        start = time.perf_counter()
        jax.block_until_ready(run(state, jnp.int32(0)))
        compile_seconds += time.perf_counter() - start
        recorded, stretch_seconds = len(losses), 0.0
        while done < steps:
            next_evaluation = done + 1 + -done % eval_every if metrics else steps
            patience = int(_STRETCH_SECONDS / pace) if pace else _FIRST_STRETCH
            boundary = steps if stretch is None else done + stretch - done % stretch
            num_steps = max(
                1, min(max_steps, next_evaluation - done, boundary - done, steps - done, patience)
            )
            start = time.perf_counter()
            new_state, new_losses, finite = run(state, jnp.int32(num_steps))
            host_losses = np.asarray(new_losses)[:num_steps]
            seconds = time.perf_counter() - start
            if not (finite and np.isfinite(host_losses).all()):
                num_steps, state, what = _last_finite(run, state, host_losses)
                losses.append(host_losses[:num_steps])
                failure = NonFiniteError(what, done + num_steps, result())
                _blame_batch(failure, loss, x, t, batches, batch_size, sampling)
                raise failure
            train_seconds += seconds
            stretch_seconds += seconds
            pace = seconds / num_steps
            losses.append(host_losses)
            state = new_state
            done += num_steps
            measured: Metrics = {"train": {}, "test": {}}
            if metrics and done == next_evaluation:
                for part, examples in parts.items():
                    values = evaluate(state.params, *examples, metrics=tuple(metrics.items()))
                    measured[part] = {name: value.dtype.type(value) for name, value in values.items()}
                    for name, value in measured[part].items():
                        if np.isnan(value):
                            metrics[name](state.params, *examples)  # not compiled, it can say what is wrong
                evaluations.append((done - 1, measured))
            bar.update(num_steps)
            bar.set_postfix(loss=f"{host_losses[-1]:.4g}", refresh=False)
            if stretch is None or done in (boundary, next_evaluation, steps):
                told = Stretch(
                    state,
                    np.concatenate(losses[recorded:]),
                    measured["train"],
                    measured["test"],
                    stretch_seconds,
                )
                recorded, stretch_seconds = len(losses), 0.0
                for callback in callbacks:
                    callback(told)
    except KeyboardInterrupt:
        return result(interrupted=True)
    finally:
        bar.close()
    return result()


def _evaluations(
    history: History, names: tuple[str, ...], parts: Mapping[str, object]
) -> list[tuple[int, Metrics]]:
    """Return the evaluations that `_history` made a history of."""
    found: dict[str, dict[str, np.ndarray]] = {"train": history.train, "test": history.test}
    expected = {part: names if part in parts else () for part in found}
    for part, curves in found.items():
        if tuple(curves) != expected[part]:
            raise ValueError(
                f"resume must hold the {part} metrics {list(expected[part])}, got {list(curves)}"
            )
    return [
        (int(step), {part: {name: curves[name][i] for name in curves} for part, curves in found.items()})
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
    return History(loss, np.array([step for step, _ in kept], int), curves("train"), curves("test"))


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


def _blame_batch(
    failure: NonFiniteError,
    loss: Loss,
    x: Array,
    t: Array,
    batches: Array | None,
    batch_size: int,
    sampling: Sampling,
) -> None:
    """Raise what the loss, given values instead of tracers, finds wrong with the batch that failed."""
    state, step = failure.result.state, failure.step
    if batches is None:
        rows = draw_batches(state.key, step, 1, batch_size, len(x), sampling)[0]
    else:
        rows = batches[step]
    try:
        loss(state.params, x[rows], t[rows])
    except (TypeError, ValueError) as error:
        raise type(error)(f"in the batch of step {step}: {error}") from failure
