"""What training compiles: the drawing of batches, the steps of a stretch, an evaluation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Int, Key

from jaxnet.sharding import DATA
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
    taken,
    tracked,
    trainable,
    update,
)
from jaxnet.training.turned import turned, turned_products

Optimizer = Any  # a GradientTransformation, or a function of hyperparameters that returns one
Weights = tuple[PyTree, PyTree]  # params and the state of the model
_PROBES, _PROBED = 8, 256  # tries whether a metric is a mean over examples, and examples enough for one


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


def exchange(rows: Int[Array, "steps batch"], examples: Examples) -> Examples:
    """Return the batches of the next steps [steps, batch, ...], each split over the devices of `data`.

    Every device sends what it has of them to all, in one sum for many steps: what it has not is 0 there. The
    batch is filled up to as much for each device.
    """
    layout = examples.layout
    assert layout is not None
    mesh, each = layout.sharding.mesh, -(-rows.shape[1] // layout.parts)
    places = layout.places(jnp.pad(rows, ((0, 0), (0, each * layout.parts - rows.shape[1]))))

    def own(places: Array, held: Examples) -> Examples:
        part = jax.lax.axis_index(DATA)
        local = places - part * layout.width
        mine = (local >= 0) & (local < layout.width)

        def take(leaf: Array) -> Array:
            found = leaf.at[local].get(mode="clip")
            found = jnp.where(
                mine.reshape(*mine.shape, *[1] * (leaf.ndim - 1)), found, jnp.zeros((), leaf.dtype)
            )
            whole = jax.lax.psum(found, DATA).astype(leaf.dtype)
            return jax.lax.dynamic_slice_in_dim(whole, part * each, each, axis=1)

        taken: Examples = jax.tree.map(take, held)
        return taken

    split = layout.sharding.spec
    specs = jax.tree.map(lambda leaf: split, examples)
    out = jax.tree.map(lambda leaf: PartitionSpec(None, *split), examples)
    shared = jax.shard_map(own, mesh=mesh, in_specs=(PartitionSpec(), specs), out_specs=out, check_vma=False)
    return shared(places, examples)


class Record(NamedTuple):
    """What is recorded of steps: their losses, and by name auxiliary and tracked values."""

    loss: Any
    """[..., steps], of JAX in a program and of NumPy outside, as all here."""
    aux: dict[str, Any]


def run_stretch(
    state: TrainState,
    num_steps: Int[Array, ""],
    rows: Int[Array, "... max_steps batch"] | Int[Array, ""],
    hyper: dict[str, Array],
    examples: Examples,
    *,
    loss: Objective,
    optimizer: Optimizer,
    loss_after_update: bool,
    at_once: int | None,
    track: tuple[str, ...] = (),
    batch_size: int = 0,
) -> tuple[TrainState, Record, Bool[Array, "..."]]:
    """Run num_steps ≤ max_steps updates; return the state, a record of each, and whether all is finite.

    rows: which examples are in each batch; or, where examples are batches themselves [max_steps, batch, ...],
    the number of the first.

    num_steps is traced: one program serves a stretch of any length, and its steps are the same bit for bit
    however a run is cut. at_once: None for one network; for many, whose hyperparameters and state but for a
    key that all share have them on the first axis, how many take a step together where each has rows of its
    own: one such group after the other goes the whole stretch.
    """
    # Of one network XLA turns the products back by itself.
    turn = turned if at_once else lambda tree: tree

    max_steps = rows.shape[-2] if rows.ndim else len(jax.tree.leaves(examples.x)[0])

    def batch_of(rows: Array, index: Array | int) -> Examples:
        if rows.ndim:
            return taken(examples, rows[index])
        layout = examples.layout

        def cut(leaf: Array) -> Array:
            own = jax.lax.dynamic_index_in_dim(leaf, rows + index, keepdims=False)[:batch_size]
            return own if layout is None else layout.batch(own)

        found: Examples = jax.tree.map(cut, examples._replace(layout=None))
        return found

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
            batch = batch_of(rows, index)
            key = step_key(state.key, state.step) if loss.keyed else state.key
            state, value, aux, grads = update(state, batch, loss=step_loss, optimizer=rule)
            if loss_after_update:
                value = own_loss(state.params, state.model_state, batch, key)[0]
            record = recorded(value, aux, grads, state.opt_state)
            return turn(state), jax.tree.map(lambda all, new: all.at[index].set(new), records, record)

        def record_of(state: TrainState, examples: Examples) -> Record:
            batch = batch_of(rows, 0)
            value, (_, aux) = own_loss(state.params, state.model_state, batch, state.key)
            return recorded(value, aux, trainable(state.params), state.opt_state)

        shapes = jax.eval_shape(record_of, state, examples)
        records = jax.tree.map(lambda leaf: jnp.zeros((max_steps, *leaf.shape), leaf.dtype), shapes)
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
    those in their order may be all of one class, or predicted all alike. chunk: all at once where it is more
    than there are.
    """
    length, layout = num_examples(examples), examples.layout
    parts = 1 if layout is None else layout.parts
    each, extra = divmod(length, parts)  # rows of every device, and devices that have one more
    half = chunk if layout is None else max(1, min(chunk, length // 2, _PROBED))
    rng, probes = np.random.default_rng(0), max(1, min(_PROBES, _PROBED // half))
    orders = [[rng.permutation(length)[: 2 * half] for _ in range(probes)] for _ in range(2)]
    rows, partners = map(np.array, orders)

    def one(weights: Weights) -> dict[str, tuple[Array, Array]]:
        return {name: over_chunks(turned_products(metric), weights) for name, metric in metrics}

    def over_chunks(metric: Callable[..., Any], weights: Weights) -> tuple[Array, Array]:
        # Of several devices, each with its own part: to bring all together takes long.
        if chunk > length or (chunk == length and not extra) or not each:
            whole = taken(examples, jnp.arange(length)) if extra else examples._replace(layout=None)
            value = jnp.asarray(metric(weights, whole))
            return value, jnp.zeros_like(value)

        def part(first: Array | int, count: int) -> Array:
            def cut(leaf: Array) -> Array:
                if layout is None:
                    return jax.lax.dynamic_slice_in_dim(leaf, first, count)
                of_parts = leaf.reshape(parts, layout.width, *leaf.shape[1:])
                cut = jax.lax.dynamic_slice_in_dim(of_parts, first, count, axis=1)
                return layout.batch(cut.reshape(parts * count, *leaf.shape[1:]))

            return jnp.asarray(metric(weights, jax.tree.map(cut, examples._replace(layout=None))))

        step = max(1, chunk // parts)
        count, rest = divmod(each, step)
        values = jax.lax.map(lambda i: part(i * step, step), jnp.arange(count))
        mean = values.mean(axis=0)
        if rest:
            mean += (part(count * step, rest) - mean) * (rest / each)
        if extra:
            last = jnp.array([layout.start(p + 1) - 1 for p in range(extra)]) if layout else jnp.arange(0)
            mean += (jnp.asarray(metric(weights, taken(examples, last))) - mean) * (extra / length)
        share = half / rows.shape[1]

        def not_a_mean(drawn: tuple[Array, Array]) -> Array:
            def of(places: slice) -> Array:
                x, others = (taken(examples, index[places]) for index in drawn)
                return jnp.asarray(metric(weights, others._replace(x=x.x)))

            one, other = of(slice(half)), of(slice(half, None))
            return jnp.abs(of(slice(None)) - (one * share + other * (1 - share)))

        gaps = jax.lax.map(not_a_mean, (jnp.asarray(rows), jnp.asarray(partners)))
        return mean.astype(values.dtype), gaps.max(axis=0).astype(values.dtype)

    # One network after the other: what lies between its layers is already many times the size of x.
    return jax.lax.map(one, weights) if many else one(weights)


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
