"""What training compiles, and how a program is found again: by what it computes.

Three programs make a run: one draws the batches of a stretch, one takes its steps, one evaluates. They are
compiled beside each other, and serve every later run that lowers to the same text, whoever made its loss and
its optimizer.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Int, Key

from jaxnet.gradcheck.interpret import inside
from jaxnet.training.state import (
    Examples,
    Measure,
    Objective,
    PyTree,
    Sampling,
    TrainState,
    all_finite,
    by_name,
    draw_batches,
    num_examples,
    step_key,
    tracked,
    trainable,
    update,
    weights_of,
)
from jaxnet.training.task import Task
from jaxnet.training.turned import turned, turned_products

Optimizer = Any  # a GradientTransformation, or a function of hyperparameters that returns one
Compiled = Callable[..., Any]
Metrics = dict[str, dict[str, Any]]  # of each part, by name: a number or array, or one of each network
Weights = tuple[PyTree, PyTree]  # params and the state of the model
Evaluate = Callable[[TrainState], Metrics]

_LIMIT = 64  # programs kept, of each of which a network of MNIST's size takes some 100 kB
_HELD = 2**26  # bytes that the largest array of an evaluation may take
_PROBES, _PROBED = (
    8,
    256,
)  # tries whether a metric is a mean over examples, and examples that are enough for one
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
    subsets: Int[Array, "networks m"] | None = None,
    *,
    max_steps: int,
    batch_size: int,
    num_examples: int,
    sampling: Sampling,
) -> Int[Array, "... max_steps batch"]:
    """Return the indices of the next batches; of several keys those of each, drawn one after the other.

    subsets: of which rows of the examples each of many networks draws.
    """
    if batches is not None:
        return batches.at[first_step + jnp.arange(max_steps)].get(mode="clip")

    def draw(key: Array) -> Array:
        result: Array = draw_batches(key, first_step, max_steps, batch_size, num_examples, sampling)
        return result

    drawn = jax.lax.map(draw, key) if key.ndim else draw(key)
    if subsets is None:
        return drawn
    result: Array = jax.vmap(lambda rows, of: rows[of], (0, 0 if key.ndim else None))(subsets, drawn)
    return result


class Record(NamedTuple):
    """What is recorded of steps: their losses, and by name auxiliary and tracked values."""

    loss: Any
    """[..., steps], of JAX in a program and of NumPy outside, as all here."""
    aux: dict[str, Any]


def run_stretch(
    state: TrainState,
    num_steps: Int[Array, ""],
    rows: Int[Array, "... max_steps batch"],
    hyper: dict[str, Array],
    examples: Examples,
    *,
    loss: Objective,
    optimizer: Optimizer,
    loss_after_update: bool,
    at_once: int | None,
    track: tuple[str, ...] = (),
) -> tuple[TrainState, Record, Bool[Array, "..."]]:
    """Run num_steps ≤ max_steps updates; return the state, a record of each, and whether all is finite.

    num_steps is traced: one program serves a stretch of any length, and its steps are the same bit for bit
    however a run is cut. at_once: None for one network; for many, whose hyperparameters and state but for a
    key that all share have them on the first axis, how many take a step together where each has rows of its
    own: one such group after the other goes the whole stretch.
    """
    # Of one network XLA turns the products back by itself.
    turn = turned if at_once else lambda tree: tree

    def one(state: TrainState, rows: Array, hyper: dict[str, Array]) -> tuple[TrainState, Record, Array]:
        own_loss, rest = loss.bound(hyper)
        rule = optimizer(**rest) if rest else optimizer
        step_loss = replace(own_loss, turned=bool(at_once))

        def recorded(value: Array, aux: PyTree, grads: PyTree, opt_state: optax.OptState) -> Record:
            named, more = by_name(aux), tracked(track, grads, opt_state)
            if both := sorted(named.keys() & more.keys()):
                raise ValueError(f"auxiliary values must not be named as those of track, got {both}")
            return Record(value, named | more)

        def body(index: Array, carry: tuple[TrainState, Record]) -> tuple[TrainState, Record]:
            state, records = turn(carry[0]), carry[1]
            batch = jax.tree.map(lambda leaf: leaf.at[rows[index]].get(mode="promise_in_bounds"), examples)
            key = step_key(state.key, state.step) if loss.keyed else state.key
            state, value, aux, grads = update(state, batch, loss=step_loss, optimizer=rule)
            if loss_after_update:
                value = own_loss(state.params, state.model_state, batch, key)[0]
            record = recorded(value, aux, grads, state.opt_state)
            return turn(state), jax.tree.map(lambda all, new: all.at[index].set(new), records, record)

        def record_of(state: TrainState, examples: Examples) -> Record:
            batch = jax.tree.map(lambda leaf: leaf[rows[0]], examples)
            value, (_, aux) = own_loss(state.params, state.model_state, batch, state.key)
            return recorded(value, aux, trainable(state.params), state.opt_state)

        shapes = jax.eval_shape(record_of, state, examples)
        records = jax.tree.map(lambda leaf: jnp.zeros((len(rows), *leaf.shape), leaf.dtype), shapes)
        state, records = jax.lax.fori_loop(0, num_steps, body, (turn(state), records))
        state = turn(state)
        return state, records, all_finite((state.params, state.model_state))

    if at_once is None:
        return one(state, rows, hyper)
    if rows.ndim == 3:
        shared = None if state.key.ndim else state.key
        state = state if shared is None else state._replace(key=jnp.broadcast_to(shared, len(rows)))
        state, *found = jax.lax.map(lambda network: one(*network), (state, rows, hyper), batch_size=at_once)
        return (state if shared is None else state._replace(key=shared), *found)
    axes = TrainState._make((0, 0, 0, 0 if state.key.ndim else None, 0))
    return jax.vmap(one, (axes, None, 0), (axes, 0, 0))(state, rows, hyper)


def init_networks(params: PyTree, hyper: dict[str, Array], *, optimizer: Optimizer) -> optax.OptState:
    """Return the first state of each network's optimizer."""

    def one(params: PyTree, hyper: dict[str, Array]) -> optax.OptState:
        return (optimizer(**hyper) if hyper else optimizer).init(trainable(params))

    return jax.vmap(one)(params, hyper)


def evaluate(
    weights: Weights, examples: Examples, *, metrics: tuple[tuple[str, Measure], ...], chunk: int, many: bool
) -> dict[str, tuple[Array, Array]]:
    """Return each metric over all examples, as the mean over chunks, and by how much it is not such a mean.

    That is what two chunks at once differ by from the mean of both, of random examples with random targets:
    those in their order may be all of one class, or predicted all alike.
    """
    length = num_examples(examples)
    rng, probes = np.random.default_rng(0), max(1, min(_PROBES, _PROBED // chunk))
    orders = [[rng.permutation(length)[: 2 * chunk] for _ in range(probes)] for _ in range(2)]
    rows, partners = map(np.array, orders)

    def one(weights: Weights) -> dict[str, tuple[Array, Array]]:
        return {name: over_chunks(turned_products(metric), weights) for name, metric in metrics}

    def over_chunks(metric: Callable[..., Any], weights: Weights) -> tuple[Array, Array]:
        if chunk >= length:
            value = jnp.asarray(metric(weights, examples))
            return value, jnp.zeros_like(value)

        def part(first: Array | int, count: int) -> Array:
            def cut(leaf: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(leaf, first, count)

            return jnp.asarray(metric(weights, jax.tree.map(cut, examples)))

        count, rest = divmod(length, chunk)
        values = jax.lax.map(lambda i: part(i * chunk, chunk), jnp.arange(count))
        mean = values.mean(axis=0)
        if rest:
            mean += (part(count * chunk, rest) - mean) * (rest / length)
        share = chunk / rows.shape[1]

        def not_a_mean(drawn: tuple[Array, Array]) -> Array:
            def of(places: slice) -> Array:
                x, others = (
                    jax.tree.map(lambda leaf, index=index[places]: leaf[index], tree)
                    for index, tree in zip(drawn, (examples.x, examples._replace(x=None)), strict=True)
                )
                return jnp.asarray(metric(weights, others._replace(x=x)))

            one, other = of(slice(chunk)), of(slice(chunk, None))
            return jnp.abs(of(slice(None)) - (one * share + other * (1 - share)))

        gaps = jax.lax.map(not_a_mean, (jnp.asarray(rows), jnp.asarray(partners)))
        return mean.astype(values.dtype), gaps.max(axis=0).astype(values.dtype)

    # One network after the other: what lies between its layers is already many times the size of x.
    return jax.lax.map(one, weights) if many else one(weights)


def chunk_of(metric: Callable[..., Any], weights: Weights, examples: Examples) -> int:
    """Return how many examples to evaluate at a time, so that no array of the metric takes more than `_HELD`.

    weights: of one network, or their shapes.
    """
    largest, length = _largest(jax.make_jaxpr(metric)(weights, examples)), num_examples(examples)
    return length if largest <= _HELD else max(1, length * _HELD // largest)


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
) -> Callable[..., tuple[TrainState, Record, Array]]:
    """Return what takes steps: of a state, its step, how many steps, the hyperparameters and subsets.

    It is being compiled; its first call waits for that.
    """
    examples = task.parts["train"]
    zero = on_device(0)
    own = state.key.shape if task.batches is None else ()
    own = own if task.subsets is None else task.subsets.shape[:1]
    rows = jax.ShapeDtypeStruct((*own, max_steps, task.batch_size), jnp.int32)
    how = {"loss": task.loss, "optimizer": optimizer, "loss_after_update": task.loss_after_update}
    how |= {"track": task.track, "at_once": at_once}
    step = program(run_stretch, state, zero, rows, hyper, examples, plain=at_once is None, **how)
    draw = program(
        draw_rows,
        state.key,
        zero,
        task.batches,
        task.subsets,
        max_steps=max_steps,
        batch_size=task.batch_size,
        num_examples=task.num_examples,
        sampling=task.sampling,
    )

    def take(
        state: TrainState,
        first: Array,
        num_steps: Array,
        hyper: dict[str, Array],
        subsets: Array | None = None,
    ) -> tuple[TrainState, Record, Array]:
        rows = draw.result()(state.key, first, task.batches, subsets)
        result: tuple[TrainState, Record, Array] = step.result()(state, num_steps, rows, hyper, examples)
        return result

    return take


def compile_evaluate(task: Task, state: TrainState, *, many: bool) -> Evaluate:
    """Return what evaluates a state, in chunks of bounded memory; it is being compiled."""
    weights = weights_of(state)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[many:], leaf.dtype), weights)
    whole = max(num_examples(part) for part in task.parts.values())

    def compiled(part: str, metrics: Mapping[str, Measure], chunk: int | None = None) -> Future[Any]:
        examples = task.parts[part]
        if chunk is None:
            chunk = min(task.eval_batch or chunk_of(metric, one, examples) for metric in metrics.values())
        return program(
            evaluate,
            weights,
            examples,
            plain=False,
            metrics=tuple(metrics.items()),
            chunk=min(chunk, num_examples(examples)),
            many=many,
        )

    programs = {part: compiled(part, task.metrics) for part in task.eval_parts}

    def measure(state: TrainState) -> Metrics:
        measured: Metrics = {}
        weights = weights_of(state)
        for part in task.eval_parts:
            found = jax.device_get(programs[part].result()(weights, task.parts[part]))
            measured[part] = {}
            for name, (value, gap) in found.items():
                eps = jnp.finfo(value.dtype).eps if jnp.issubdtype(value.dtype, jnp.floating) else 0
                if (np.abs(gap) > 64 * eps * np.abs(value)).any():  # no mean over examples
                    again = compiled(part, {name: task.metrics[name]}, whole).result()
                    value, _ = jax.device_get(again(weights, task.parts[part]))[name]
                measured[part][name] = value if value.ndim else value.dtype.type(value)
                unknown = np.isnan(value).reshape(len(value) if many else 1, -1).any(axis=1)
                for index in np.flatnonzero(unknown)[:1]:
                    _say_what_is_wrong(task, name, part, share_of(weights, int(index)) if many else weights)
        return measured

    return measure


def _say_what_is_wrong(task: Task, name: str, part: str, weights: Weights) -> None:
    """Evaluate a metric uncompiled, which can raise what is wrong, a batch at a time."""
    examples = task.parts[part]
    for first in range(0, num_examples(examples), 10_000):
        some = jax.tree.map(lambda leaf, first=first: leaf[first : first + 10_000], examples)
        task.metrics[name](weights, some)


def on_device(number: int) -> Array:
    """Return a whole number on the device, by an explicit transfer."""
    result: Array = jax.device_put(np.int32(number))
    return result


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
