"""The state of a run, one step of it, and the batches: pure functions of arrays."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key, Num, PRNGKeyArray, Shaped

PyTree = Any
Loss = Callable[[PyTree, Array, Array], Array]
Sampling = Literal["replacement", "shuffle"]
AnyKey = Shaped[ArrayLike, "..."] | None  # of jax.random.key or PRNGKey, or a seed

STEPS, BATCH_SIZE, LEARNING_RATE = 10_000, 100, 0.1  # the source's (4.3)


class TrainState(NamedTuple):
    """Everything that a run continues from."""

    params: PyTree
    opt_state: optax.OptState
    step: Int[Array, "..."]  # updates done
    key: Key[Array, "..."]  # of the whole run: it never changes


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Return SGD at the source's learning rate."""
    return optax.sgd(LEARNING_RATE)


def as_key(key: AnyKey) -> Key[Array, "..."]:
    """Return the key that is meant: a key as it is, one of `jax.random.PRNGKey`, a seed, or of seed 0."""
    if key is None or (isinstance(key, (int, np.integer)) and not isinstance(key, bool)):
        return jax.random.key(0 if key is None else key)
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, (Array, np.ndarray)) and key.dtype == jnp.uint32:
        return jax.random.wrap_key_data(jnp.asarray(key))
    raise TypeError(f"key must be of jax.random.key or PRNGKey, or a seed, got {key!r}")


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation | None = None, key: AnyKey = None
) -> TrainState:
    """Return the state before the first step; optimizer: SGD at 0.1, key: `jax.random.key(0)` by default."""
    params = jax.tree.map(jnp.asarray, params)
    optimizer = default_optimizer() if optimizer is None else optimizer
    return TrainState(params, optimizer.init(params), jnp.int32(0), as_key(key))


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
    return update(state, x, t, loss=loss, optimizer=default_optimizer() if optimizer is None else optimizer)


def update(
    state: TrainState, x: ArrayLike, t: ArrayLike, *, loss: Loss, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""]]:
    """Return what `train_step` does, not compiled by itself."""
    value, grads = jax.value_and_grad(loss)(state.params, x, t)
    if isinstance(state.params, optax.LookaheadParams):
        grads = grads.fast  # the slow ones follow by themselves
    x, t = jnp.asarray(x), jnp.asarray(t)
    line_search = {"value": value, "grad": grads, "value_fn": lambda params: loss(params, x, t)}
    sharpness_aware = {"grad_fn": lambda params, _: jax.grad(loss)(params, x, t)}
    transform = optax.with_extra_args_support(optimizer).update
    for extra in (line_search, sharpness_aware, {}):  # a rule that wants the one may refuse the other
        try:
            updates, opt_state = transform(grads, state.opt_state, state.params, **extra)
            break
        except TypeError as error:
            if not extra or "keyword argument" not in str(error):
                raise
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

    "replacement": independent and uniform, to `num_examples / 2^32` (the source's, 4.1). "shuffle": each
    epoch of `num_examples // batch_size` steps goes through a fresh permutation, its remainder left out.

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
        # Not `randint`, whose program takes longer to compile than the rest of a run's.
        def bits(step: Array) -> Array:
            return jax.random.bits(jax.random.fold_in(key, step), (batch_size,), jnp.uint32)

        # Of other keys than threefry's, `vmap` draws what depends on the other steps.
        alone = str(jax.random.key_impl(key)) != "threefry2x32"
        drawn = jax.lax.map(bits, steps) if alone else jax.vmap(bits)(steps)
        return (drawn % np.uint32(num_examples)).astype(jnp.int32)
    per_epoch = num_examples // batch_size
    first_epoch = first_step // per_epoch
    epochs = first_epoch + jnp.arange((num_steps - 1) // per_epoch + 2)
    order = jax.lax.map(lambda e: jax.random.permutation(jax.random.fold_in(key, e), num_examples), epochs)
    order = order[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return order[steps - first_epoch * per_epoch].astype(jnp.int32)


@jax.jit
def all_finite(tree: PyTree) -> Array:
    """Return whether every number of a tree is finite, in memory that does not grow with it."""

    def may_be_not(leaf: Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.inexact)

    def finite(leaf: Array) -> Array:
        # Times 0 all that is finite sums to 0. Not max and min, which lose NaN in 4,096 elements or more on
        # CPU, nor isfinite of every element, which takes a byte for each.
        zeros = leaf * jnp.zeros((), leaf.dtype)
        return jax.lax.reduce(zeros, jnp.zeros((), leaf.dtype), jax.lax.add, tuple(range(leaf.ndim))) == 0

    return jnp.all(jnp.array([finite(leaf) for leaf in jax.tree.leaves(tree) if may_be_not(leaf)]))
