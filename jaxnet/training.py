"""Mini-batch training of any pure `loss(params, x, t)`, whole stretches of steps compiled as one program.

Source: 4.3 (the loop) and 4.4 (its evaluation). The batch of step s is a function of `(key, s)` alone, so
that a run does not depend on how it is cut into stretches.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num, PRNGKeyArray

from jaxnet.differentiation import _check_scalar

PyTree = Any
Loss = Callable[[PyTree, Array, Array], Array]
Sampling = Literal["replacement", "shuffle"]
Metrics = dict[str, dict[str, np.floating]]  # of "train" and "test", by name

STEPS, BATCH_SIZE, LEARNING_RATE = 10_000, 100, 0.1  # the source's (4.3)
_MAX_STRETCH = 1000  # steps
_MAX_DRAWN = 2**20  # examples
_FIRST_STRETCH = 20  # steps, while their pace is unknown
_STRETCH_SECONDS = 0.5  # how long a Ctrl-C or the progress bar may have to wait


class TrainState(NamedTuple):
    """Everything that a run continues from."""

    params: PyTree
    opt_state: optax.OptState
    step: Int[Array, ""]  # updates done
    key: PRNGKeyArray  # of the whole run: it never changes


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


@cache
def _default_optimizer() -> optax.GradientTransformation:
    # One object, so that two runs with the default share one compilation.
    return optax.sgd(LEARNING_RATE)


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation | None = None, key: PRNGKeyArray | None = None
) -> TrainState:
    """Return the state before the first step; optimizer: SGD at 0.1, key: `jax.random.key(0)` by default."""
    params = jax.tree.map(jnp.asarray, params)
    optimizer = _default_optimizer() if optimizer is None else optimizer
    key = jax.random.key(0) if key is None else key
    return TrainState(params, optimizer.init(params), jnp.int32(0), key)


@partial(jax.jit, static_argnames=("loss", "optimizer"))
def train_step(
    state: TrainState,
    x: Num[ArrayLike, "n ..."],
    t: Num[ArrayLike, "n ..."],
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Float[Array, ""]]:
    """Return the state after one update on the batch (x, t), and the batch's loss before it; compiled.

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> state, value = train_step(init_state(jnp.array(0.0)), jnp.ones(4), jnp.ones(4), loss=square)
    >>> value, state.params
    (Array(1., dtype=float32), Array(0.2, dtype=float32))
    """
    optimizer = _default_optimizer() if optimizer is None else optimizer
    value, grads = jax.value_and_grad(loss)(state.params, x, t)
    x, t = jnp.asarray(x), jnp.asarray(t)
    # Line searches and plateau schedules ask for more than the gradient; the others do not mind.
    extra = {"value": value, "grad": grads, "value_fn": lambda params: loss(params, x, t)}
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1, state.key), value


@partial(jax.jit, static_argnames=("num_steps", "batch_size", "num_examples", "sampling"))
def draw_batches(
    key: PRNGKeyArray,
    first_step: int | Int[Array, ""],
    num_steps: int,
    batch_size: int,
    num_examples: int,
    sampling: Sampling = "replacement",
) -> Int[Array, "num_steps batch_size"]:
    """Return the indices of the examples that `fit` uses in the steps first_step, first_step + 1 ...

    "replacement": uniform, independent (the source's, 4.1). "shuffle": each epoch of
    `num_examples // batch_size` steps goes through a fresh permutation, its remainder left out.

    Raises:
        ValueError: an unknown sampling, or a batch larger than the set to shuffle.
    """
    if sampling not in ("replacement", "shuffle"):
        raise ValueError(f"sampling must be 'replacement' or 'shuffle', got {sampling!r}")
    if sampling == "shuffle" and batch_size > num_examples:
        raise ValueError(
            f"batch_size must be at most the {num_examples} training examples to shuffle, got {batch_size}"
        )
    steps = first_step + jnp.arange(num_steps)
    if sampling == "replacement":
        return jax.vmap(
            lambda step: jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, num_examples)
        )(steps)
    per_epoch = num_examples // batch_size
    first_epoch = first_step // per_epoch
    epochs = first_epoch + jnp.arange((num_steps - 1) // per_epoch + 2)
    order = jax.lax.map(lambda e: jax.random.permutation(jax.random.fold_in(key, e), num_examples), epochs)
    order = order[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return order[steps - first_epoch * per_epoch].astype(jnp.int32)


@jax.jit
def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _run_stretch(
    state: TrainState,
    num_steps: Int[Array, ""],
    x: Array,
    t: Array,
    batches: Int[Array, "steps batch"] | None,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    sampling: Sampling,
    loss_after_update: bool,
    max_steps: int,
) -> tuple[TrainState, Float[Array, " max_steps"], Array]:
    """Run num_steps ≤ max_steps updates; return the state, each step's loss and whether params are finite.

    num_steps is traced: one program serves a stretch of any length, and its steps are the same bit for bit
    however a run is cut. The loop ends early at a loss that is not finite.
    """
    first_step = state.step
    if batches is None:
        rows = draw_batches(state.key, first_step, max_steps, batch_size, x.shape[0], sampling)
    else:
        rows = batches

    def running(carry: tuple[TrainState, Array, Array]) -> Array:
        state, _, last_loss = carry
        return (state.step < first_step + num_steps) & jnp.isfinite(last_loss)

    def body(carry: tuple[TrainState, Array, Array]) -> tuple[TrainState, Array, Array]:
        state, losses, _ = carry
        index = state.step - first_step
        batch = rows[state.step if batches is not None else index]
        x_batch, t_batch = (array.at[batch].get(mode="promise_in_bounds") for array in (x, t))
        new_state, value = train_step(state, x_batch, t_batch, loss=loss, optimizer=optimizer)
        if loss_after_update:
            value = loss(new_state.params, x_batch, t_batch)
        return new_state, losses.at[index].set(value), value

    dtype = _check_scalar(loss, state.params, x[rows[0]], t[rows[0]], name="the loss").dtype
    losses = jnp.full(max_steps, jnp.nan, dtype)
    state, losses, _ = jax.lax.while_loop(running, body, (state, losses, jnp.zeros((), dtype)))
    return state, losses, _all_finite(state.params)


@cache
def _stretch_program(backend: str) -> Callable[..., tuple[TrainState, Array, Array]]:
    """Compile `_run_stretch` for a backend, with options of this one program that no other code sees."""
    options = None
    if backend == "cpu":
        # Small products outside of YNN's fusions: a seventh off a step of 784-50-10 with jaxlib 0.10.
        options = {"xla_cpu_experimental_ynn_fusion_type": ""}
        try:
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError:  # a jaxlib that no longer has the option
            options = None
    static = ("loss", "optimizer", "batch_size", "sampling", "loss_after_update", "max_steps")
    return jax.jit(_run_stretch, static_argnames=static, compiler_options=options)


@partial(jax.jit, static_argnames=("metrics",))
def _evaluate(
    params: PyTree, x: Array, t: Array, metrics: tuple[tuple[str, Loss], ...]
) -> dict[str, Float[Array, ""]]:
    return {name: metric(params, x, t) for name, metric in metrics}


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
    x, t = _check_examples(train, "train")
    optimizer = _check_optimizer(optimizer)
    if batches is not None:
        batches = _check_batches(batches, len(x), steps, batch_size)
        steps, batch_size = batches.shape
    steps = _check_positive_int(STEPS if steps is None else steps, "steps")
    batch_size = _check_positive_int(BATCH_SIZE if batch_size is None else batch_size, "batch_size")
    if sampling not in ("replacement", "shuffle"):
        raise ValueError(f"sampling must be 'replacement' or 'shuffle', got {sampling!r}")
    if metrics is None:
        metrics = {} if test is None else {"loss": loss}
    elif not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to functions, got {type(metrics).__name__}")
    parts = {"train": (x, t)}
    if test is not None:
        parts["test"] = _check_examples(test, "test", x.shape[1:])
    eval_every = _check_positive_int(
        max(len(x) // batch_size, 1) if eval_every is None else eval_every, "eval_every"
    )
    stretch = None if stretch is None else _check_positive_int(stretch, "stretch")
    # The batches of one call of the program are drawn at once: not more than a few MB, however large each is.
    interval = min(stretch or steps, eval_every if metrics else steps)
    max_steps = max(1, min(_MAX_STRETCH, steps, interval, _MAX_DRAWN // batch_size))
    run = partial(
        _stretch_program(jax.default_backend()),
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
    if not _all_finite(state.params):
        raise ValueError("params must be finite, got NaN or infinity")

    losses: list[np.ndarray] = []
    evaluations: list[tuple[int, Metrics]] = []
    compile_seconds = train_seconds = 0.0
    if resume is not None:
        state = _check_resumable(resume.state, state, steps, key)
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
                    values = _evaluate(state.params, *examples, metrics=tuple(metrics.items()))
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


def _check_resumable(
    found: TrainState, fresh: TrainState, steps: int, key: PRNGKeyArray | None
) -> TrainState:
    """Return the state to resume, on the device, or say in what it differs from this run's fresh one."""
    found = jax.tree.map(jnp.asarray, found)
    expected, got = (jax.tree_util.tree_leaves_with_path(state) for state in (fresh, found))
    if str(jax.tree.structure(fresh)) != str(jax.tree.structure(found)):
        raise ValueError("resume must have this run's params and optimizer, got another structure")
    for (path, leaf), (_, other) in zip(expected, got, strict=True):
        if (leaf.shape, leaf.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"resume.state{jax.tree_util.keystr(path)} must be {leaf.dtype}{list(leaf.shape)}, "
                f"got {other.dtype}{list(other.shape)}"
            )
    if found.step > steps:
        raise ValueError(
            f"steps must be at least the {found.step} that the run to resume has done, got {steps}"
        )
    if key is not None and (jax.random.key_data(key) != jax.random.key_data(found.key)).any():
        raise ValueError("key must be that of the run to resume, or left out, got another")
    return found


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


def _check_examples(
    examples: tuple[ArrayLike, ArrayLike], name: str, shape: tuple[int, ...] | None = None
) -> tuple[Array, Array]:
    if not isinstance(examples, (tuple, list)) or len(examples) != 2:
        raise ValueError(f"{name} must be a pair (x, t) of arrays, got {type(examples).__name__}")
    try:
        host = [array if isinstance(array, Array) else np.asarray(array) for array in examples]
        x, t = (jnp.asarray(array) for array in host)
    except (TypeError, ValueError):  # text, None, rows of different lengths
        raise TypeError(
            f"{name} must be two arrays of numbers, got {[type(a).__name__ for a in examples]}"
        ) from None
    for before, after in zip(host, (x, t), strict=True):
        if before.size and jnp.issubdtype(after.dtype, jnp.integer):
            low, high = int(before.min()), int(before.max())
            limits = jnp.iinfo(after.dtype)
            if low < limits.min or high > limits.max:
                raise ValueError(f"{name} must fit into {after.dtype}, got {low}..{high}")
    if not x.ndim or not t.ndim or len(x) != len(t):
        raise ValueError(
            f"{name} must be as many inputs as targets, got shapes {list(x.shape)} and {list(t.shape)}"
        )
    if not x.size:
        raise ValueError(f"{name} must hold at least one example, got inputs of shape {list(x.shape)}")
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"{name} inputs must have the shape of train inputs, {list(shape)} each, got {list(x.shape[1:])}"
        )
    for array, kind in ((x, "inputs"), (t, "targets")):
        if not _all_finite(array):
            row = int(np.argwhere(~np.isfinite(np.asarray(array)))[0][0])
            raise ValueError(f"{name} {kind} must be finite, got NaN or infinity in example {row}")
    return x, t


def _check_optimizer(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    if optimizer is None:
        return _default_optimizer()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}")
    return optimizer


def _check_batches(batches: ArrayLike, num_examples: int, steps: int | None, batch_size: int | None) -> Array:
    host = np.asarray(batches)
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"batches must be integer indices, got {host.dtype}")
    if host.ndim != 2 or not host.size:
        raise ValueError(f"batches must have shape [steps, batch] and not be empty, got {list(host.shape)}")
    if host.min() < 0 or host.max() >= num_examples:
        raise ValueError(f"batches must index 0..{num_examples - 1}, got {host.min()}..{host.max()}")
    for name, given, implied in (("steps", steps, host.shape[0]), ("batch_size", batch_size, host.shape[1])):
        if given not in (None, implied):
            raise ValueError(f"{name} must be {implied}, as batches has it, or left out, got {given}")
    return jnp.asarray(host, jnp.int32)


def _check_positive_int(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)
