"""The state of a run, one step of it, and the batches: pure functions of arrays."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key, Num, PRNGKeyArray

from jaxnet._arrays import AnyKey as AnyKey
from jaxnet._arrays import as_key as as_key
from jaxnet._names import BATCH_SIZE as BATCH_SIZE
from jaxnet._names import LEARNING_RATE as LEARNING_RATE
from jaxnet._names import STEPS as STEPS
from jaxnet._names import Sampling as Sampling
from jaxnet.sharding import Layout
from jaxnet.training.turned import turned_products

_BLOCK = 32  # examples that are read at once

PyTree = Any
Loss = Callable[..., Any]
Metric = Callable[..., Any]

GRADIENT_NORM = "gradient_norm"


class TrainState(NamedTuple):
    """Everything that a run continues from."""

    params: PyTree
    """Arrays; what of the user's is none is wrapped, so that it is no leaf."""
    opt_state: optax.OptState
    step: Int[Array, "..."]  # updates done
    key: Key[Array, "..."]  # of the whole run: it never changes
    model_state: PyTree = ()
    """What the loss carries from step to step, such as the statistics of batch norm."""


class Examples(NamedTuple):
    """Inputs and targets, pytrees with the examples on the first axis of every leaf; t may be None."""

    x: PyTree
    t: PyTree
    sample_weight: Array | None = None
    layout: Layout | None = None
    """How they lie on several devices."""


def num_examples(examples: Examples) -> int:
    """Return how many examples there are."""
    return len(jax.tree.leaves(examples.x)[0]) if examples.layout is None else examples.layout.length


def taken(examples: Examples, rows: Int[ArrayLike, "..."]) -> Examples:
    """Return the examples in those rows, which on several devices are split among them."""
    layout = examples.layout
    if layout is None:
        found: Examples = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), examples)
        return found
    places = layout.places(jnp.asarray(rows))

    def take(leaf: Array) -> Array:
        return layout.batch(leaf.at[places].get(mode="promise_in_bounds"))

    result: Examples = jax.tree.map(take, examples._replace(layout=None))
    return result


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """What params hold that is neither an array nor a float, such as a function or a number of heads."""

    value: Any


def as_params(params: PyTree) -> PyTree:
    """Return params with arrays for leaves, and what cannot be one wrapped."""

    def leaf_of(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, (float, complex)) or hasattr(leaf, "__array__"):
            if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.character):
                return jnp.asarray(leaf)
            where = jax.tree_util.keystr(path)
            raise TypeError(f"params{where} must be an array of numbers, got {leaf.dtype}")
        try:
            hash(leaf)
        except TypeError:
            where, got = jax.tree_util.keystr(path), type(leaf).__name__
            raise TypeError(f"params{where} must be an array or hashable, got {got}") from None
        return Static(leaf)

    return jax.tree_util.tree_map_with_path(leaf_of, params)


def unwrapped(params: PyTree) -> PyTree:
    """Return params as the user has them."""

    def wraps(leaf: Any) -> bool:
        return isinstance(leaf, Static)

    return jax.tree.map(lambda leaf: leaf.value if wraps(leaf) else leaf, params, is_leaf=wraps)


def trainable(params: PyTree) -> PyTree:
    """Return params with None for every leaf that is not floating-point, which training leaves alone."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else None, params)


def with_trained(free: PyTree, params: PyTree) -> PyTree:
    """Return params with those leaves replaced that `trainable` kept."""
    return jax.tree.map(
        lambda own, leaf: leaf if own is None else own, free, params, is_leaf=lambda leaf: leaf is None
    )


def takes(f: Callable[..., Any], name: str, *, needs: bool = False) -> bool:
    """Return whether a function has a parameter of that name, but for None without a value of its own.

    needs: and not even None.
    """
    try:
        parameter = inspect.signature(f).parameters.get(name)
    except (TypeError, ValueError):  # of some builtins and callable objects Python knows no signature
        return False
    return parameter is not None and (
        parameter.default is parameter.empty or (parameter.default is None and not needs)
    )


def check_call(f: Callable[..., Any], what: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Refuse a loss or a metric that cannot be called with what it is given."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given, **named)
    except TypeError:
        form = ", ".join(["params", *["state"] * (len(given) - 3), "x", "t", *(f"{name}=" for name in named)])
        raise TypeError(
            f"{what} must take ({form}), got one that takes {signature}; "
            "with has_state=True a state follows params"
        ) from None


@dataclass(frozen=True)  # not a NamedTuple: JAX refers weakly to the functions that it traces
class Objective:
    """A loss in any of the forms that `fit` takes; called, it has one: see there."""

    loss: Loss
    has_state: bool = False
    has_aux: bool = False
    turned: bool = False
    """With its products turned, as `turned_products` does."""

    def __call__(
        self, params: PyTree, model_state: PyTree, examples: Examples, key: Array
    ) -> tuple[Array, tuple[PyTree, PyTree]]:
        """Return the value, the next state of the model, and auxiliary values, or say what is wrong."""
        if self.turned:
            result: tuple[Array, tuple[PyTree, PyTree]] = turned_products(replace(self, turned=False))(
                params, model_state, examples, key
            )
            return result
        # A copy, as an Equinox state can be used but once.
        state = (jax.tree.map(lambda leaf: leaf, model_state),) if self.has_state else ()
        weight = examples.sample_weight
        named = ({"key": key} if self.keyed else {}) | ({} if weight is None else {"sample_weight": weight})
        given = unwrapped(params), *state, examples.x, examples.t
        check_call(self.loss, "the loss", given, named)
        returned = self.loss(*given, **named)
        form = ["value", *["state"] * self.has_state, *["aux"] * self.has_aux]
        if len(form) == 1:
            returned = (returned,)
        elif not isinstance(returned, tuple) or len(returned) != len(form):
            got = f"{len(returned)} values" if isinstance(returned, tuple) else "no tuple"
            raise TypeError(f"the loss must return ({', '.join(form)}), got {got}")
        value, aux = _checked_scalar(returned[0]), returned[-1] if self.has_aux else ()
        if self.has_state:
            _check_alike(model_state, returned[1])
        return value, (returned[1] if self.has_state else model_state, aux)

    @property
    def keyed(self) -> bool:
        """Whether the loss takes a key."""
        return takes(self.loss, "key")

    def bound(self, hyper: dict[str, Array]) -> tuple["Objective", dict[str, Array]]:
        """Return the loss with those hyperparameters that it has parameters for, and the others."""
        own = {name: value for name, value in hyper.items() if takes(self.loss, name)}
        rest = {name: value for name, value in hyper.items() if name not in own}
        return (replace(self, loss=partial(self.loss, **own)) if own else self), rest


@dataclass(frozen=True)
class Measure:
    """A metric in any of the forms that `fit` takes; called, it has one."""

    metric: Metric
    has_state: bool = False
    first: bool = False
    """Of the several values that it returns the first is meant, as of a loss."""

    def __call__(self, weights: tuple[PyTree, PyTree], examples: Examples) -> Any:
        """Return the metric of params and the state of the model on examples."""
        params, model_state = weights
        state = (jax.tree.map(lambda leaf: leaf, model_state),) if self.has_state else ()
        named = {"key": jax.random.key(0)} if takes(self.metric, "key", needs=True) else {}
        given = unwrapped(params), *state, examples.x, examples.t
        check_call(self.metric, "a metric", given, named)
        returned = self.metric(*given, **named)
        return returned[0] if self.first else returned


def _checked_scalar(value: Any) -> Array:
    value = jnp.asarray(value) if isinstance(value, float) else value
    if not hasattr(value, "dtype"):
        more = ": has_aux or has_state say of what" if isinstance(value, tuple) else ""
        raise TypeError(f"the loss must return a real scalar, got {type(value).__name__}{more}")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"{value.dtype} of shape {list(value.shape)}"
        raise TypeError(f"the loss must return a real scalar, got {got}")
    return jnp.asarray(value)


def _check_alike(expected: PyTree, got: PyTree) -> None:
    """Refuse a next state of a model that is not of the structure, shapes and dtypes of the one before."""
    before, after = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (expected, got)
    )
    if str(jax.tree.structure(expected)) != str(jax.tree.structure(got)):
        raise TypeError(
            f"the loss must return a state of the structure it was given, with leaves {list(before)}, "
            f"got {list(after)}"
        )
    for path, leaf in before.items():
        (wanted, found) = (f"{jnp.result_type(a)}{list(jnp.shape(a))}" for a in (leaf, after[path]))
        if wanted != found:
            raise TypeError(f"the loss must return state{path} as it was given, {wanted}, got {found}")


def step_key(key: PRNGKeyArray, step: int | Int[ArrayLike, ""]) -> PRNGKeyArray:
    """Return the key that a loss with a parameter `key` is given in that step of a run of `key`.

    It is independent of those that `draw_batches` uses.
    """
    return jax.random.fold_in(key, jnp.asarray(step).astype(jnp.uint32) + np.uint32(2**31))


class Averaged(NamedTuple):
    """The state of `averaged`: that of the optimizer, and the average of the parameters."""

    inner: optax.OptState
    average: PyTree


def averaged(
    optimizer: optax.GradientTransformation, decay: float | Float[Array, ""] = 0.999
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer, which also averages the parameters for evaluation and for the result.

    After each update `average ← decay · average + (1 - decay) · params`, from the first parameters on (Polyak
    and Juditsky 1992, with exponential weights). `fit` evaluates the average, and `result.params` is it;
    `result.state.params` are the parameters themselves.

    Raises:
        ValueError: decay is not between 0 and 1.

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> state = init_state(jnp.array(0.0), averaged(optax.sgd(0.1), 0.5))
    >>> state, _ = train_step(state, jnp.ones(4), jnp.ones(4), loss=square,
    ...                       optimizer=averaged(optax.sgd(0.1), 0.5))
    >>> round(float(state.params), 3), round(float(state.opt_state.average), 3)
    (0.2, 0.1)
    """
    if not isinstance(decay, Array) and not 0 <= decay <= 1:
        raise ValueError(f"decay must be between 0 and 1, got {decay}")
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> Averaged:
        return Averaged(inner.init(params), params)

    def update(
        updates: PyTree, state: Averaged, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, Averaged]:
        updates, opt_state = inner.update(updates, state.inner, params, **extra)

        def mean(average: Array, leaf: Array) -> Array:
            mixed: Array = decay * average + (1 - decay) * leaf
            return mixed.astype(leaf.dtype)

        average = jax.tree.map(mean, state.average, optax.apply_updates(params, updates))
        return updates, Averaged(opt_state, average)

    return optax.GradientTransformationExtraArgs(init, update)


def weights_of(state: TrainState) -> tuple[PyTree, PyTree]:
    """Return what is evaluated of a state: the params or their average, and the state of the model."""
    if isinstance(state.opt_state, Averaged):
        return with_trained(state.opt_state.average, state.params), state.model_state
    return state.params, state.model_state


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Return SGD at the source's learning rate."""
    return optax.sgd(LEARNING_RATE)


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation | None = None,
    key: AnyKey = None,
    model_state: PyTree = (),
) -> TrainState:
    """Return the state before the first step; optimizer: SGD at 0.1, key: `jax.random.key(0)` by default.

    model_state: what a loss with `has_state` starts from.
    """
    params, model_state = as_params(params), jax.tree.map(jnp.asarray, model_state)
    optimizer = default_optimizer() if optimizer is None else optimizer
    return TrainState(params, optimizer.init(trainable(params)), jnp.int32(0), as_key(key), model_state)


@partial(jax.jit, static_argnames=("loss", "optimizer", "has_state", "has_aux"))
def train_step(
    state: TrainState,
    x: PyTree,
    t: PyTree,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation | None = None,
    has_state: bool = False,
    has_aux: bool = False,
    sample_weight: Num[ArrayLike, " n"] | None = None,
) -> tuple[TrainState, Any]:
    """Return the state after one update on the batch (x, t), and the batch's loss before it; compiled.

    The loss and all else are as in `fit`; with has_aux the second is (loss, auxiliary values).

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> state, value = train_step(init_state(jnp.array(0.0)), jnp.ones(4), jnp.ones(4), loss=square)
    >>> value, state.params
    (Array(1., dtype=float32), Array(0.2, dtype=float32))
    """
    rule = default_optimizer() if optimizer is None else optimizer
    weight = None if sample_weight is None else jnp.asarray(sample_weight)
    objective = Objective(loss, has_state, has_aux)
    state, value, aux, _ = update(state, Examples(x, t, weight), loss=objective, optimizer=rule)
    return state, (value, aux) if has_aux else value


def update(
    state: TrainState, examples: Examples, *, loss: Objective, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""], PyTree, PyTree]:
    """Return the next state, the loss before it, its auxiliary values and its gradient."""
    examples = jax.tree.map(jnp.asarray, examples)
    key = step_key(state.key, state.step) if loss.keyed else state.key
    free = trainable(state.params)

    def objective(free: PyTree) -> tuple[Array, tuple[PyTree, PyTree]]:
        return loss(with_trained(free, state.params), state.model_state, examples, key)

    (value, (model_state, aux)), grads = jax.value_and_grad(objective, has_aux=True)(free)
    if isinstance(free, optax.LookaheadParams):
        grads = grads.fast  # the slow ones follow by themselves
    line_search = {"value": value, "grad": grads, "value_fn": lambda params: objective(params)[0]}
    sharpness_aware = {"grad_fn": lambda params, _: jax.grad(objective, has_aux=True)(params)[0]}
    transform = optax.with_extra_args_support(optimizer).update
    # A rule that wants the one may refuse the other, or miss it.
    for extra in (line_search | sharpness_aware, line_search, sharpness_aware, {}):
        try:
            updates, opt_state = transform(grads, state.opt_state, free, **extra)
            break
        except TypeError as error:
            if not extra or "keyword argument" not in str(error):
                raise
        except AttributeError as error:
            if "fast" not in str(error):
                raise
            needs = "optax.lookahead takes optax.LookaheadParams.init_synced(params)"
            raise TypeError(f"params must be such as the optimizer takes: {needs}") from None
    params = with_trained(optax.apply_updates(free, updates), state.params)
    return TrainState(params, opt_state, state.step + 1, state.key, model_state), value, aux, grads


def by_name(aux: PyTree) -> dict[str, Any]:
    """Return auxiliary values by their paths, such as `kl` or `norms.0`; a single one as `aux`."""
    leaves = jax.tree_util.tree_leaves_with_path(aux)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "aux": leaf for path, leaf in leaves}


def tracked(names: tuple[str, ...], grads: PyTree, opt_state: optax.OptState) -> dict[str, Array]:
    """Return what is to be recorded of a step beside its loss.

    Raises:
        ValueError: the state of the optimizer has no such number.
    """

    def value(name: str) -> Array:
        if name == GRADIENT_NORM:
            return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
        found = [leaf for _, leaf in optax.tree_utils.tree_get_all_with_path(opt_state, name)]
        found = [leaf for leaf in found if hasattr(leaf, "dtype")]
        if len(found) != 1:
            raise ValueError(
                f"track must be {GRADIENT_NORM!r} or what the optimizer's state holds once, as that of "
                f"optax.inject_hyperparams(optax.sgd)(learning_rate=0.1) holds 'learning_rate', got {name!r}"
            )
        return jnp.asarray(found[0])

    return {name: value(name) for name in names}


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
    "blocks": the same of blocks of 32 examples that follow each other, from another one on in each epoch:
    what is on disk is read several times as fast so, and should lie there in a random order.

    Raises:
        ValueError: an unknown sampling, or a batch larger than the set to shuffle.
    """
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {sampling!r}")
    block = _BLOCK if sampling == "blocks" else 1
    usable = num_examples // block * block
    if sampling != "replacement" and batch_size > usable:
        whole = f", {usable} in whole blocks of {block}" if block > 1 else ""
        raise ValueError(
            f"batch_size must be at most the {num_examples} training examples to shuffle{whole}, "
            f"got {batch_size}"
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
    per_epoch = usable // batch_size
    first_epoch = first_step // per_epoch
    epochs = first_epoch + jnp.arange((num_steps - 1) // per_epoch + 2)

    def permuted(epoch: Array) -> Array:
        own = jax.random.fold_in(key, epoch)
        order: Array = jax.random.permutation(own, usable // block)
        if block == 1:
            return order
        first = jax.random.bits(jax.random.fold_in(own, 0), (), jnp.uint32) % np.uint32(num_examples)
        rows = order.astype(jnp.uint32)[:, None] * np.uint32(block) + np.arange(block, dtype=np.uint32)
        return (rows.ravel() + first) % np.uint32(num_examples)

    order = jax.lax.map(permuted, epochs)
    order = order[:, : per_epoch * batch_size].reshape(-1, batch_size)
    result: Array = order[steps - first_epoch * per_epoch].astype(jnp.int32)
    return result


@jax.jit
def all_finite(tree: PyTree) -> Array:
    """Return whether every number of a tree is finite, in memory that does not grow with it."""

    def may_be_not(leaf: Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.inexact)

    def finite(leaf: Array) -> Array:
        # Times 0 all that is finite sums to 0. Not max and min, which lose NaN in 4,096 elements or more on
        # CPU, nor isfinite of every element, which takes a byte for each.
        zeros = leaf * jnp.zeros((), leaf.dtype)
        result: Array = (
            jax.lax.reduce(zeros, jnp.zeros((), leaf.dtype), jax.lax.add, tuple(range(leaf.ndim))) == 0
        )
        return result

    return jnp.all(jnp.array([finite(leaf) for leaf in jax.tree.leaves(tree) if may_be_not(leaf)]))
