"""The compiled part of training: the state, a step of it, the batches, and a stretch as one program."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num, PRNGKeyArray

from jaxnet._turned import turned_products
from jaxnet.differentiation import _check_scalar

PyTree = Any
Loss = Callable[[PyTree, Array, Array], Array]
Sampling = Literal["replacement", "shuffle"]

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


@cache
def default_optimizer() -> optax.GradientTransformation:
    # One object, so that two runs with the default share one compilation.
    return optax.sgd(LEARNING_RATE)


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation | None = None, key: PRNGKeyArray | None = None
) -> TrainState:
    """Return the state before the first step; optimizer: SGD at 0.1, key: `jax.random.key(0)` by default."""
    params = jax.tree.map(jnp.asarray, params)
    optimizer = default_optimizer() if optimizer is None else optimizer
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
    return update(state, x, t, loss=loss, optimizer=default_optimizer() if optimizer is None else optimizer)


def update(
    state: TrainState, x: ArrayLike, t: ArrayLike, *, loss: Loss, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""]]:
    """Return what `train_step` does, not compiled by itself."""
    value, grads = jax.value_and_grad(loss)(state.params, x, t)
    x, t = jnp.asarray(x), jnp.asarray(t)
    # Line searches and plateau schedules ask for more than the gradient; the others do not mind.
    extra = {"value": value, "grad": grads, "value_fn": lambda params: loss(params, x, t)}
    transform = optax.with_extra_args_support(optimizer).update
    updates, opt_state = transform(grads, state.opt_state, state.params, **extra)
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
    def finite(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.all(jnp.isfinite(leaf))
        # Times 0 all that is finite sums to 0. Not max and min, which lose NaN in 4,096 elements or more on
        # CPU, nor isfinite of every element, which takes a byte for each.
        zeros = leaf * jnp.zeros((), leaf.dtype)
        return jax.lax.reduce(zeros, jnp.zeros((), leaf.dtype), jax.lax.add, tuple(range(leaf.ndim))) == 0

    return jnp.all(jnp.array([finite(leaf) for leaf in jax.tree.leaves(tree)]))


def run_stretch(
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
    return state, losses, all_finite(state.params)


@cache
def compiler_options(backend: str) -> dict[str, str] | None:
    """Return options for a program that trains, which no other code of the process sees."""
    options = None
    if backend == "cpu":
        # Small products outside of YNN's fusions: a seventh off a step of 784-50-10 with jaxlib 0.10.
        options = {"xla_cpu_experimental_ynn_fusion_type": ""}
        try:
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError:  # a jaxlib that no longer has the option
            options = None
    return options


@cache
def stretch_program(backend: str) -> Callable[..., tuple[TrainState, Array, Array]]:
    """Compile `run_stretch` for a backend."""
    static = ("loss", "optimizer", "batch_size", "sampling", "loss_after_update", "max_steps")
    return jax.jit(run_stretch, static_argnames=static, compiler_options=compiler_options(backend))


@partial(jax.jit, static_argnames=("metrics",))
def evaluate(
    params: PyTree, x: Array, t: Array, metrics: tuple[tuple[str, Loss], ...]
) -> dict[str, Float[Array, ""]]:
    return {name: turned_products(metric)(params, x, t) for name, metric in metrics}


class Cut(NamedTuple):
    """The next steps to run in one go, and what comes after them."""

    num_steps: int
    evaluates: bool
    ends: bool
    """A stretch that callbacks are told of ends here."""


def next_cut(
    done: int, pace: float, *, steps: int, max_steps: int, eval_every: int | None, stretch: int | None
) -> Cut:
    """Return how far to go from `done` steps, at a pace in seconds per step (0: unknown).

    eval_every: None where nothing is evaluated.
    """
    next_evaluation = steps if eval_every is None else done + 1 + -done % eval_every
    boundary = steps if stretch is None else done + stretch - done % stretch
    patience = int(_STRETCH_SECONDS / pace) if pace else _FIRST_STRETCH
    num_steps = max(1, min(max_steps, next_evaluation - done, boundary - done, steps - done, patience))
    end = done + num_steps
    evaluates = eval_every is not None and end == next_evaluation
    return Cut(num_steps, evaluates, stretch is None or end in (boundary, next_evaluation, steps))


def longest_cut(batch_size: int, *intervals: int | None) -> int:
    """Return how many steps one call of a program has room for.

    Its batches are drawn at once: not more than a few MB, however large each is.
    """
    return max(1, min(_MAX_STRETCH, _MAX_DRAWN // batch_size, *(i for i in intervals if i is not None)))
