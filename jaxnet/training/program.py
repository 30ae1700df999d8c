"""What training compiles, and how a program is found again: by what it computes.

Three programs make a run: one draws the batches of a stretch, one takes its steps, one evaluates. They are
compiled beside each other, and serve every later run that lowers to the same text, whoever made its loss and
its optimizer.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache, partial
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from jaxnet.differentiation import _check_scalar
from jaxnet.gradcheck.interpret import inside
from jaxnet.training.state import Loss, PyTree, Sampling, TrainState, all_finite, draw_batches, update
from jaxnet.training.task import Task
from jaxnet.training.turned import turned, turned_products

Optimizer = Any  # a GradientTransformation, or a function of hyperparameters that returns one
Compiled = Callable[..., Any]
Metrics = dict[str, dict[str, Any]]  # of each part, by name: a number, or one of each network
Evaluate = Callable[[PyTree], Metrics]

_LIMIT = 64  # programs kept, of each of which a network of MNIST's size takes some 100 kB
_HELD = 2**26  # bytes that the largest array of an evaluation may take
_programs: OrderedDict[tuple[Any, ...], Future[Compiled]] = OrderedDict()  # the longest unused first
_lock = Lock()


def program(f: Callable[..., Any], *args: Any, plain: bool = True, **settings: Any) -> Future[Compiled]:
    """Return the program of `f(*args, **settings)`, to be called with such args, being compiled or found.

    Tracing and lowering f takes some 40 ms, compiling it 20 times that: so known programs are those of the
    same lowered text. plain: without YNN's fusions where there are any.
    """
    lowered = _jitted(f, **settings).lower(*args)
    text = lowered.as_text()
    leaves = jax.tree.leaves(args)
    # A text leaves out arguments that are not used, and on which devices they are.
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    devices = frozenset().union(*(leaf.devices() for leaf in leaves if isinstance(leaf, Array)))
    options = _without_fusions(jax.default_backend()) if plain else None
    digest = hashlib.sha256(text.encode()).digest()
    key: tuple[Any, ...] = (digest, lowered.in_tree, lowered.out_tree, shapes, devices, plain)
    # A text does not say what Python code it calls back, nor, with that setting, what constants it holds.
    # (jax makes its settings attributes as it runs: mypy sees none.)
    if "callback" in text or jax.config.jax_use_simplified_jaxpr_constants:  # type: ignore[attr-defined]
        key = (*key, object())
    with _lock:
        found = _programs.pop(key, None)
        if found is None or (found.done() and found.exception() is not None):
            compiler = ThreadPoolExecutor(1, "jaxnet-compile")
            found = compiler.submit(lowered.compile, options)
            compiler.shutdown(wait=False)
        _programs[key] = found
        while len(_programs) > _LIMIT:
            _programs.popitem(last=False)
    return found


@lru_cache(_LIMIT)
def _jitted(f: Callable[..., Any], **settings: Any) -> Any:
    return jax.jit(partial(f, **settings))


@cache
def _without_fusions(backend: str) -> dict[str, str] | None:
    """Return options for a program that trains, which no other code of the process sees."""
    if backend != "cpu":
        return None
    # Small products outside of YNN's fusions: a seventh off a step of 784-50-10 with jaxlib 0.10.
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # a jaxlib that no longer has the option
        return None
    return options


def draw_rows(
    key: Key[Array, "..."],
    first_step: Int[Array, ""],
    batches: Int[Array, "steps batch"] | None,
    *,
    max_steps: int,
    batch_size: int,
    num_examples: int,
    sampling: Sampling,
) -> Int[Array, "... max_steps batch"]:
    """Return the indices of the next batches; of several keys those of each, drawn one after the other."""
    if batches is not None:
        return batches.at[first_step + jnp.arange(max_steps)].get(mode="clip")

    def draw(key: Array) -> Array:
        return draw_batches(key, first_step, max_steps, batch_size, num_examples, sampling)

    return jax.lax.map(draw, key) if key.ndim else draw(key)


def run_stretch(
    state: TrainState,
    num_steps: Int[Array, ""],
    rows: Int[Array, "... max_steps batch"],
    hyper: dict[str, Array],
    x: Array,
    t: Array,
    *,
    loss: Loss,
    optimizer: Optimizer,
    loss_after_update: bool,
    at_once: int | None,
) -> tuple[TrainState, Float[Array, "... max_steps"], Bool[Array, "..."]]:
    """Run num_steps ≤ max_steps updates; return the state, each step's loss and whether params are finite.

    num_steps is traced: one program serves a stretch of any length, and its steps are the same bit for bit
    however a run is cut. at_once: None for one network; for many, whose hyperparameters and state but for a
    key that all share have them on the first axis, how many take a step together where each has rows of its
    own: one such group after the other goes the whole stretch.
    """
    # Of one network XLA turns the products back by itself.
    turn, step_loss = (turned, turned_products(loss)) if at_once else (lambda tree: tree, loss)

    def one(state: TrainState, rows: Array, hyper: dict[str, Array]) -> tuple[TrainState, Array, Array]:
        rule = optimizer(**hyper) if hyper else optimizer

        def body(index: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, losses = turn(carry[0]), carry[1]
            x_batch, t_batch = (array.at[rows[index]].get(mode="promise_in_bounds") for array in (x, t))
            state, value = update(state, x_batch, t_batch, loss=step_loss, optimizer=rule)
            if loss_after_update:
                value = loss(state.params, x_batch, t_batch)
            return turn(state), losses.at[index].set(value)

        dtype = _check_scalar(loss, state.params, x[rows[0]], t[rows[0]], name="the loss").dtype
        losses = jnp.zeros(len(rows), dtype)
        state, losses = jax.lax.fori_loop(0, num_steps, body, (turn(state), losses))
        state = turn(state)
        return state, losses, all_finite(state.params)

    if at_once is None:
        return one(state, rows, hyper)
    if rows.ndim == 3:
        return jax.lax.map(lambda network: one(*network), (state, rows, hyper), batch_size=at_once)
    axes = TrainState._make((0, 0, 0, None))
    return jax.vmap(one, (axes, None, 0), (axes, 0, 0))(state, rows, hyper)


def init_networks(params: PyTree, hyper: dict[str, Array], *, optimizer: Optimizer) -> optax.OptState:
    """Return the first state of each network's optimizer."""

    def one(params: PyTree, hyper: dict[str, Array]) -> optax.OptState:
        return (optimizer(**hyper) if hyper else optimizer).init(params)

    return jax.vmap(one)(params, hyper)


def evaluate(
    params: PyTree, x: Array, t: Array, *, metrics: tuple[tuple[str, Loss], ...], chunk: int, many: bool
) -> dict[str, Float[Array, "... 2"]]:
    """Return each metric over all examples, as the mean over chunks, and by how much it is not such a mean.

    That is what two chunks at once differ by from the mean of both.
    """

    def one(params: PyTree) -> dict[str, Array]:
        return {name: over_chunks(turned_products(metric), params) for name, metric in metrics}

    def over_chunks(metric: Loss, params: PyTree) -> Array:
        if chunk >= len(x):
            value = metric(params, x, t)
            return jnp.stack([value, jnp.zeros_like(value)])

        def part(first: Array | int, count: int) -> Array:
            return metric(params, *(jax.lax.dynamic_slice_in_dim(array, first, count) for array in (x, t)))

        count, rest = divmod(len(x), chunk)
        values = jax.lax.map(lambda i: part(i * chunk, chunk), jnp.arange(count))
        mean = values.mean()
        if rest:
            mean += (part(count * chunk, rest) - mean) * (rest / len(x))
        two = [values[0], values[1]] if count > 1 else [values[0], part(chunk, rest)]
        share = chunk / min(2 * chunk, len(x))
        gap = part(0, min(2 * chunk, len(x))) - (two[0] * share + two[1] * (1 - share))
        return jnp.stack([mean, gap]).astype(values.dtype)

    # One network after the other: what lies between its layers is already many times the size of x.
    return jax.lax.map(one, params) if many else one(params)


def chunk_of(metric: Loss, params: PyTree, x: Array, t: Array) -> int:
    """Return how many examples to evaluate at a time, so that no array of the metric takes more than `_HELD`.

    params: of one network, or their shapes.
    """
    largest = _largest(jax.make_jaxpr(metric)(params, x, t))
    return len(x) if largest <= _HELD else max(1, len(x) * _HELD // largest)


def _largest(jaxpr: Any) -> int:
    """Return the bytes of the largest array that a jaxpr computes."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [_largest(inner.jaxpr) for inner in inside(equation)]
        avals = [variable.aval for variable in equation.outvars]
        sizes += [aval.size * aval.dtype.itemsize for aval in avals if hasattr(aval, "dtype")]
    return max(sizes)


def compile_train(
    task: Task,
    optimizer: Any,
    state: TrainState,
    hyper: dict[str, Array],
    max_steps: int,
    at_once: int | None,
) -> Callable[[TrainState, Array, Array, dict[str, Array]], tuple[TrainState, Array, Array]]:
    """Return what takes steps: of a state, its step, how many steps and the hyperparameters.

    It is being compiled; its first call waits for that.
    """
    x, t = task.parts["train"]
    zero = on_device(0)
    own = state.key.shape if task.batches is None else ()
    rows = jax.ShapeDtypeStruct((*own, max_steps, task.batch_size), jnp.int32)
    how = {"loss": task.loss, "optimizer": optimizer, "loss_after_update": task.loss_after_update}
    step = program(run_stretch, state, zero, rows, hyper, x, t, plain=at_once is None, at_once=at_once, **how)
    draw = program(
        draw_rows,
        state.key,
        zero,
        task.batches,
        max_steps=max_steps,
        batch_size=task.batch_size,
        num_examples=len(x),
        sampling=task.sampling,
    )

    def take(
        state: TrainState, first: Array, num_steps: Array, hyper: dict[str, Array]
    ) -> tuple[TrainState, Array, Array]:
        rows = draw.result()(state.key, first, task.batches)
        return step.result()(state, num_steps, rows, hyper, x, t)

    return take


def compile_evaluate(task: Task, params: PyTree, *, many: bool) -> Evaluate:
    """Return what evaluates params, in chunks of bounded memory; it is being compiled."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[many:], leaf.dtype), params)
    whole = max(len(task.parts[part][0]) for part in task.parts)

    def compiled(part: str, metrics: Mapping[str, Any], chunk: int | None = None) -> Future[Any]:
        x, t = task.parts[part]
        if chunk is None:
            chunk = min(task.eval_batch or chunk_of(metric, one, x, t) for metric in metrics.values())
        return program(
            evaluate,
            params,
            x,
            t,
            plain=False,
            metrics=tuple(metrics.items()),
            chunk=min(chunk, len(x)),
            many=many,
        )

    programs = {part: compiled(part, task.metrics) for part in task.eval_parts}

    def measure(params: PyTree) -> Metrics:
        measured: Metrics = {}
        for part in task.eval_parts:
            found = jax.device_get(programs[part].result()(params, *task.parts[part]))
            for name in task.metrics:
                value, gap = (found[name][..., i] for i in (0, 1))
                eps = jnp.finfo(value.dtype).eps if jnp.issubdtype(value.dtype, jnp.floating) else 0
                if (np.abs(gap) > 64 * eps * np.abs(value)).any():  # no mean over examples
                    again = compiled(part, {name: task.metrics[name]}, whole).result()
                    value = jax.device_get(again(params, *task.parts[part]))[name][..., 0]
                found[name] = value if many else value.dtype.type(value)
                for index in np.flatnonzero(np.isnan(value))[:1]:
                    _say_what_is_wrong(task, name, part, share_of(params, int(index)) if many else params)
            measured[part] = found
        return measured

    return measure


def _say_what_is_wrong(task: Task, name: str, part: str, params: PyTree) -> None:
    """Evaluate a metric uncompiled, which can raise what is wrong, a batch at a time."""
    examples = task.parts[part]
    for first in range(0, len(examples[0]), 10_000):
        task.metrics[name](params, *(array[first : first + 10_000] for array in examples))


def on_device(number: int) -> Array:
    """Return a whole number on the device, by an explicit transfer."""
    return jax.device_put(np.int32(number))


def share_of(tree: PyTree, index: int | np.ndarray) -> PyTree:
    """Return those networks of a tree; the one key that all share stays as it is."""
    return jax.tree.map(lambda leaf: leaf[index] if np.ndim(leaf) else leaf, tree)


def merged(chosen: np.ndarray, one: PyTree, other: PyTree) -> PyTree:
    """Return the chosen networks of one tree and the others of another; chosen [] or [networks]."""
    if not chosen.ndim or chosen.all():
        return one if chosen.all() else other
    return _merged(jax.device_put(chosen), one, other)


@jax.jit
def _merged(chosen: Bool[Array, " networks"], one: PyTree, other: PyTree) -> PyTree:
    def choose(a: Array, b: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b) if a.ndim else a

    return jax.tree.map(choose, one, other)
