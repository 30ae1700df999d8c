"""What training compiles, and how a program is found again: by what it computes.

Three programs make a run: one draws the batches of a stretch, one takes its steps, one evaluates. They are
compiled beside each other, and serve every later run that lowers to the same text, whoever made its loss and
its optimizer.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet._compiler import compiler_options
from jaxnet.gradcheck.interpret import inside
from jaxnet.sharding import DATA, fetched, layout, over_all, place, replicated
from jaxnet.training import disk
from jaxnet.training.body import Record, Weights, draw_rows, evaluate, exchange, run_stretch, share_of
from jaxnet.training.state import Examples, Measure, PyTree, TrainState, num_examples, taken, weights_of
from jaxnet.training.task import Task

Compiled = Callable[..., Any]
Metrics = dict[str, dict[str, Any]]  # of each part, by name: a number or array, or one of each network
Evaluate = Callable[[TrainState], Metrics]

_LIMIT = 64  # programs kept, of each of which a network of MNIST's size takes some 100 kB
_HELD = 2**26  # bytes that the largest array of an evaluation may take
_DRAWN = 2**20  # row numbers, of what is on disk, that are drawn at once
_programs: OrderedDict[tuple[Any, ...], Future[Compiled]] = OrderedDict()  # the longest unused first
_lock = Lock()


class Spread(NamedTuple):
    """How a program's results lie on several devices."""

    out: PyTree
    """Their shardings."""
    mesh: Mesh | None = None
    """Where each device computes its own networks alone, whose results are then `inside`."""
    inside: PyTree = None


def program(
    f: Callable[..., Any], *args: Any, kind: str = "any", spread: Spread | None = None, **settings: Any
) -> Future[Compiled]:
    """Return the program of `f(*args, **settings)`, to be called with such args, being compiled or found.

    Tracing and lowering f takes some 40 ms, compiling it 20 times that: so known programs are those of the
    same lowered text. kind: of its options for the compiler.
    """
    if spread is None:
        jitted = _jitted(f, **settings)
    else:
        own = partial(f, **settings)
        if (mesh := spread.mesh) is not None:
            specs = jax.tree.map(lambda leaf: leaf.sharding.spec, args)
            own = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=spread.inside, check_vma=False)
        jitted = jax.jit(own, out_shardings=spread.out)
    lowered = jitted.lower(*args)
    text = lowered.as_text()
    leaves = jax.tree.leaves(args)
    # A text leaves out arguments that are not used, and on which devices they are.
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    devices = frozenset().union(*(leaf.devices() for leaf in leaves if isinstance(leaf, Array)))
    options = compiler_options(kind)
    digest = hashlib.sha256(text.encode()).digest()
    key: tuple[Any, ...] = (digest, lowered.in_tree, lowered.out_tree, shapes, devices, kind)
    # A text does not say what Python code it calls back, nor, with that setting, what constants it holds.
    # (jax makes a setting that a `with` may change an attribute as it runs, which no type knows; its
    # `config.read` refuses such settings, and `values` has them without the `with`.)
    settings_now: Any = jax.config
    if "callback" in text or settings_now.jax_use_simplified_jaxpr_constants:
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
    examples, mesh = task.parts["train"], task.mesh
    zero = on_device(0, mesh)
    own = state.key.shape if task.batches is None else ()
    own = own if task.subsets is None else task.subsets.shape[:1]
    drawn = taking = sharding = kept = None
    if mesh is not None:
        everywhere, kept = replicated(mesh), jax.tree.map(lambda leaf: leaf.sharding, state)
        sharding = over_all(mesh) if own else everywhere
        each = over_all(mesh).spec
        drawn = Spread(sharding, mesh if own else None, each)
        taking = Spread((kept, everywhere, everywhere))
        if at_once is not None:
            specs = jax.tree.map(lambda leaf: leaf.spec, kept)
            taking = taking._replace(mesh=mesh, inside=(specs, each, each))
    rows = jax.ShapeDtypeStruct((*own, max_steps, task.batch_size), jnp.int32, sharding=sharding)
    how = {"loss": task.loss, "optimizer": optimizer, "loss_after_update": task.loss_after_update}
    how |= {"track": task.track, "at_once": at_once, "kind": "steps" if at_once is None else "any"}
    batches = exchanging = None
    source = task.on_disk.get("train")
    if source is not None:
        width = (
            task.batch_size if mesh is None else -(-task.batch_size // mesh.shape[DATA]) * mesh.shape[DATA]
        )
        split = None if mesh is None else NamedSharding(mesh, PartitionSpec(None, DATA))
        batches = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((max_steps, width, *a.shape[1:]), a.dtype, sharding=split),
            examples._replace(layout=None if mesh is None else layout(width, mesh)),
        )
        how["batch_size"] = task.batch_size
    elif examples.layout is not None and examples.layout.parts > 1:
        split = NamedSharding(
            examples.layout.sharding.mesh, PartitionSpec(None, *examples.layout.sharding.spec)
        )
        exchanging = program(exchange, rows, examples, spread=Spread(split))
        batches = jax.eval_shape(exchange, rows, examples)
        batches = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=split), batches)
        how["batch_size"] = task.batch_size
    given = (rows, hyper, examples) if batches is None else (zero, hyper, batches)
    step = program(run_stretch, state, zero, *given, spread=taking, **how)
    # Of batches read a few at a time the rows of many are drawn at once: a permutation is one piece of work.
    blocks = 1 if source is None else max(1, _DRAWN // (max_steps * task.batch_size))
    draw = program(
        draw_rows,
        state.key,
        zero,
        task.batches,
        task.subsets,
        kind="quick",
        spread=drawn,
        max_steps=max_steps * blocks,
        batch_size=task.batch_size,
        num_examples=task.num_examples,
        sampling=task.sampling,
    )

    if source is not None:
        key = state.key

        @lru_cache(2)
        def drawn_of(number: int) -> np.ndarray:
            first = on_device(number * max_steps * blocks, mesh)
            return np.asarray(jax.device_get(draw.result()(key, first, task.batches, None)))

        def rows_of(number: int) -> np.ndarray:
            rows: np.ndarray = np.split(drawn_of(number // blocks), blocks)[number % blocks]
            return rows

        block = disk.batches(source, rows_of, mesh, examples.sample_weight)

    def take(
        state: TrainState,
        first: Array,
        num_steps: Array,
        hyper: dict[str, Array],
        subsets: Array | None = None,
    ) -> tuple[TrainState, Record, Array]:
        if kept is not None:
            state = jax.tree.map(place, state, kept)
        if source is not None:
            number, offset = divmod(int(jax.device_get(first)), max_steps)
            own = on_device(offset, mesh), hyper, block(number)
            found: tuple[TrainState, Record, Array] = step.result()(state, num_steps, *own)
            return found
        rows = draw.result()(state.key, first, task.batches, subsets)
        own = rows, hyper, examples
        if exchanging is not None:
            own = zero, hyper, exchanging.result()(rows, examples)
        result: tuple[TrainState, Record, Array] = step.result()(state, num_steps, *own)
        return result

    return take


def compile_evaluate(task: Task, state: TrainState, *, many: bool) -> Evaluate:
    """Return what evaluates a state, in chunks of bounded memory; it is being compiled."""
    weights, spread, kept = weights_of(state), None, None
    if task.mesh is not None:
        each, kept = over_all(task.mesh).spec, jax.tree.map(lambda leaf: leaf.sharding, weights)
        spread = Spread(replicated(task.mesh), task.mesh if many else None, each)
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
            spread=spread,
            metrics=tuple(metrics.items()),
            chunk=min(chunk, num_examples(examples) + (chunk > whole)),
            many=many,
        )

    programs = {part: compiled(part, task.metrics) for part in task.eval_parts if part not in task.on_disk}

    def over_disk(
        part: str, weights: Weights
    ) -> Iterator[tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]]:
        source = task.on_disk[part]
        at_once = task.eval_batch or max(2, disk.PIECE // disk.row_bytes(source))
        for examples in disk.pieces(source, at_once, task.mesh):
            length = num_examples(examples)
            how: dict[str, Any] = {
                "metrics": tuple(task.metrics.items()),
                "chunk": -(-length // 2),
                "many": many,
            }
            if (part, length) not in of_length:
                of_length[part, length] = program(evaluate, weights, examples, spread=spread, **how)
            yield length, jax.device_get(of_length[part, length].result()(weights, examples))

    of_length: dict[tuple[str, int], Future[Any]] = {}

    def measure(state: TrainState) -> Metrics:
        measured: Metrics = {}
        weights = weights_of(state)
        if kept is not None:
            weights = jax.tree.map(place, weights, kept)
        for part in task.eval_parts:
            if part in task.on_disk:
                means = disk.mean_over(over_disk(part, weights), part)
                measured[part] = {n: v if v.ndim else v.dtype.type(v) for n, v in means.items()}
                continue
            found = jax.device_get(programs[part].result()(weights, task.parts[part]))
            measured[part] = {}
            for name, (value, gap) in found.items():
                eps = jnp.finfo(value.dtype).eps if jnp.issubdtype(value.dtype, jnp.floating) else 0
                if (np.abs(gap) > 64 * eps * np.abs(value)).any():  # no mean over examples
                    again = compiled(part, {name: task.metrics[name]}, whole + 1).result()
                    value, _ = jax.device_get(again(weights, task.parts[part]))[name]
                measured[part][name] = value if value.ndim else value.dtype.type(value)
                unknown = np.isnan(value).reshape(len(value) if many else 1, -1).any(axis=1)
                for index in np.flatnonzero(unknown)[:1]:
                    _say_what_is_wrong(task, name, part, share_of(weights, int(index)) if many else weights)
        return measured

    return measure


def _say_what_is_wrong(task: Task, name: str, part: str, weights: Weights) -> None:
    """Evaluate a metric uncompiled, which can raise what is wrong, a batch at a time."""
    examples, weights = task.parts[part], fetched(weights, task.mesh)
    length = num_examples(examples)
    for first in range(0, length, 10_000):
        rows = np.arange(first, min(first + 10_000, length))
        some = fetched(jax.jit(taken)(examples, rows), task.mesh)
        task.metrics[name](weights, some)


def on_device(number: int, mesh: Mesh | None = None) -> Array:
    """Return a whole number on the device, or every one of a mesh, by an explicit transfer."""
    if mesh is not None:
        return place(np.int32(number), replicated(mesh))
    result: Array = jax.device_put(np.int32(number))
    return result
