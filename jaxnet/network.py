"""Fully connected networks: forward, loss and hand-written backward side by side (source 4.3).

A network is its parameters, a tuple of `Dense`; the activation between the layers is an argument. Inputs are
[n, features] or one example [features]; targets are integer labels [n] or one-hot (or soft) rows [n,
classes].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Num

from jaxnet import differentiation
from jaxnet._arrays import AnyKey, as_key
from jaxnet._names import ActivationName as ActivationName
from jaxnet.activations import ACTIVATIONS, Activation, _as_float, softmax
from jaxnet.losses import Targets, softmax_cross_entropy, target_distribution, weight_shares
from jaxnet.metrics import mean_squared_error


class Dense(NamedTuple):
    """The parameters of one layer, `x · weight + bias`; without a bias where it is None."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None = None


Params = tuple[Dense, ...]


def init(
    key: AnyKey,
    sizes: Sequence[int],
    *,
    weight_std: int | float | None = 0.01,
    bias: bool = True,
    dtype: DTypeLike = float,
) -> Params:
    """Return fresh parameters: weights `weight_std` × standard normal, biases zero.

    key: of `jax.random.key`, or a seed. sizes: units of each layer, input first; `(784, 50, 10)` is the
    source's network (4.3), and `(2, 3)` with `bias=False` and `weight_std=1` its SimpleNet (4.2).
    `weight_std=None` takes `1 / sqrt(inputs)` of each layer, with which deep networks learn too.

    Raises:
        ValueError: fewer than two sizes, one that is not a positive integer, or a weight_std that is negative
            or not finite.
        TypeError: the dtype is not a floating-point one.

    >>> [layer.weight.shape for layer in init(jax.random.key(0), (784, 50, 10))]
    [(784, 50), (50, 10)]
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or not all(_is_positive_int(size) for size in sizes):
        raise ValueError(f"sizes must be two or more positive integers, input first, got {sizes}")
    if weight_std is not None and not 0 <= weight_std < float("inf"):
        raise ValueError(f"weight_std must be finite and not negative, got {weight_std}")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")
    return tuple(
        Dense(
            # A Python float, so that the product stays in the dtype asked for.
            (inputs**-0.5 if weight_std is None else float(weight_std))
            * jax.random.normal(layer_key, (inputs, outputs), dtype),
            jnp.zeros(outputs, dtype) if bias else None,
        )
        for layer_key, inputs, outputs in zip(
            jax.random.split(as_key(key), len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
        )
    )


def logits(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    *,
    activation: ActivationName = "sigmoid",
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch classes"]:
    """Return the last layer's output, before the softmax.

    dtype: what to compute in, such as `jnp.bfloat16`; params and the logits keep their own, so that a loss of
    them and its gradient do too.

    Raises:
        TypeError: the dtype is not a floating-point one.
        ValueError: x is neither [n, features] nor [features] for the first layer, the batch is empty, a layer
            does not fit the one before it, or the activation is unknown.
    """
    if dtype is None:
        return _forward(params, x, activation)[-1][1]
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating-point type, got {jnp.dtype(dtype)}")
    own = jnp.result_type(*jax.tree.leaves(params))
    low, x = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, _as_float(x, "x")))
    return _forward(low, x, activation)[-1][1].astype(own)


def predict(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    *,
    activation: ActivationName = "sigmoid",
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch classes"]:
    """Return the probability of each class; every row sums to 1. Raises as `logits`."""
    return softmax(logits(params, x, activation=activation, dtype=dtype))


def loss(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    t: Targets,
    *,
    activation: ActivationName = "sigmoid",
    class_weight: Num[ArrayLike, " classes"] | list[Any] | None = None,
    sample_weight: Num[ArrayLike, " n"] | list[Any] | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, ""]:
    """Return the mean cross entropy of the batch, exact from the logits, or its weighted mean.

    `partial(network.loss, class_weight=...)` is a loss for `fit`. Raises as `logits`, and for targets and
    weights as `softmax_cross_entropy`.
    """
    outputs = logits(params, x, activation=activation, dtype=dtype)
    return softmax_cross_entropy(outputs, t, class_weight=class_weight, sample_weight=sample_weight)


def squared_loss(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    t: Num[ArrayLike, "..."] | list[Any],
    *,
    activation: ActivationName = "sigmoid",
    sample_weight: Num[ArrayLike, " n"] | list[Any] | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, ""]:
    """Return the mean squared error of a regression, whose predictions are the `logits`.

    t: [n], where the last layer has one unit, or [n, outputs]. With sample_weight it is the weighted mean.
    Raises as `logits`, and for targets and weights as `metrics.mean_squared_error`.

    >>> always_2 = rescaled(init(jax.random.key(0), (3, 1)), 0.0, 2.0)
    >>> squared_loss(always_2, jnp.ones((2, 3)), jnp.array([2.0, 6.0]))
    Array(8., dtype=float32)
    """
    outputs = logits(params, x, activation=activation, dtype=dtype)
    return mean_squared_error(outputs, t, sample_weight=sample_weight)


def rescaled(
    params: Params,
    scale: int | float = 1.0,
    shift: int | float = 0.0,
    *,
    input_mean: Num[ArrayLike, "..."] = 0.0,
    input_std: Num[ArrayLike, "..."] = 1.0,
) -> Params:
    """Return the parameters whose logits of x are `scale · logits + shift` of `(x - input_mean) / input_std`.

    A network trained on standardised inputs and targets so becomes one of inputs and targets in their own
    units, with the standardisation in its weights.

    Raises:
        ValueError: an input_mean or input_std that is neither a number nor one for each feature, or an
            input_std that is not positive.

    >>> params = init(jax.random.key(0), (1, 2, 1))
    >>> logits(rescaled(params, 0.0, 7.0), jnp.ones(1))
    Array([7.], dtype=float32)
    """

    def folded(
        layer: Dense, mean: ArrayLike, std: ArrayLike, scale: int | float, shift: int | float
    ) -> Dense:
        wide = np.asarray(layer.weight, np.float64) / np.reshape(np.asarray(std, np.float64), (-1, 1)) * scale
        old = 0.0 if layer.bias is None else np.asarray(layer.bias, np.float64)
        bias = old * scale + shift - np.broadcast_to(np.asarray(mean, np.float64), len(wide)) @ wide
        return Dense(_like(wide, layer.weight), _like(bias, layer.weight))

    first, *rest = params
    for name, values in (("input_mean", input_mean), ("input_std", input_std)):
        if np.shape(values) not in ((), first.weight.shape[:1]):
            features, got = first.weight.shape[0], list(np.shape(values))
            raise ValueError(
                f"{name} must be a number or one for each of {features} features, got shape {got}"
            )
    if not (np.asarray(input_std) > 0).all():
        raise ValueError(f"input_std must be positive, got {np.asarray(input_std).tolist()}")
    if not rest:
        return (folded(first, input_mean, input_std, scale, shift),)
    *middle, last = rest
    return (folded(first, input_mean, input_std, 1.0, 0.0), *middle, folded(last, 0.0, 1.0, scale, shift))


def accuracy(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    t: Targets,
    *,
    activation: ActivationName = "sigmoid",
    dtype: DTypeLike | None = None,
) -> Float[Array, ""]:
    """Return the share of examples, 0 to 1, whose most probable class is the target's. Raises as `loss`."""
    outputs = logits(params, x, activation=activation, dtype=dtype)
    distribution, labels = target_distribution(t, outputs.shape, outputs.dtype)
    hits = (jnp.argmax(outputs, axis=-1) == labels).astype(outputs.dtype)
    unknown = (jnp.isnan(distribution) | jnp.isnan(outputs)).any(axis=-1)
    total = jnp.sum(jnp.where(unknown, jnp.nan, hits))
    # Compiled, a division by a constant becomes a product with its inverse, and 0.925 would read 0.92499995.
    result: Array = total / jax.lax.optimization_barrier(jnp.asarray(labels.size, total.dtype))
    return result


def _forward(params: Params, x: ArrayLike, activation: str) -> list[tuple[Array, Array]]:
    """Return the input a [n, in] and the output z [n, out] of every layer."""
    function = _activation(activation).function
    a = _as_float(x, "x")
    if not isinstance(params, (tuple, list)) or not all(isinstance(layer, Dense) for layer in params):
        got = (
            [type(layer).__name__ for layer in params] if isinstance(params, (tuple, list)) else type(params)
        )
        raise TypeError(f"params must be a tuple of Dense layers, got {got}")
    if not params:
        raise ValueError("params must hold at least one Dense layer, got none")
    features = params[0].weight.shape[0]
    if a.ndim not in (1, 2) or a.shape[-1] != features:
        raise ValueError(f"x must have shape [n, {features}] or [{features}], got {list(a.shape)}")
    if a.size == 0:
        raise ValueError(f"the batch must not be empty, got x of shape {list(a.shape)}")
    trace: list[tuple[Array, Array]] = []
    for index, layer in enumerate(params):
        if index:
            a = function(trace[-1][1])
        shape = list(layer.weight.shape)
        if len(shape) != 2 or shape[0] != a.shape[-1]:
            raise ValueError(f"params[{index}].weight must have shape [{a.shape[-1]}, outputs], got {shape}")
        if layer.bias is not None and list(layer.bias.shape) != shape[1:]:
            raise ValueError(
                f"params[{index}].bias must have shape {shape[1:]}, got {list(layer.bias.shape)}"
            )
        z = a @ layer.weight
        trace.append((a, z if layer.bias is None else z + jnp.broadcast_to(layer.bias, z.shape)))
    return trace


def backprop(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    t: Targets,
    *,
    activation: ActivationName = "sigmoid",
    class_weight: Num[ArrayLike, " classes"] | list[Any] | None = None,
    sample_weight: Num[ArrayLike, " n"] | list[Any] | None = None,
) -> Params:
    """Return the gradient of `loss` in `params`, by hand-written backpropagation; same pytree as params.

    Starts, as the source's (4.3), from `dz = (y - t) / n`, here with every row of y normalised on its own.
    Raises as `loss`.

    >>> params = init(jax.random.key(0), (4, 3, 2))
    >>> x, t = jnp.ones((5, 4)), jnp.array([0, 1, 1, 0, 1])
    >>> by_hand, by_jax = backprop(params, x, t), jax.grad(loss)(params, x, t)
    >>> bool(jnp.allclose(by_hand[0].weight, by_jax[0].weight, rtol=1e-5))
    True
    """
    derivative = _activation(activation).derivative
    trace = _forward(params, x, activation)
    z = trace[-1][1]  # [n, classes] or [classes]
    y = softmax(z)
    t, _ = target_distribution(t, z.shape, z.dtype)
    # y · Σt is y for rows that sum to 1, and exact also for soft ones that do so only nearly.
    dz = jnp.atleast_2d(y * t.sum(axis=-1, keepdims=True) - t)
    if class_weight is None and sample_weight is None:
        dz = dz / dz.shape[0]
    else:
        dz = dz * jnp.reshape(weight_shares(t, class_weight, sample_weight), (-1, 1))
    grads: list[Dense] = []
    for index in reversed(range(len(params))):
        a = jnp.atleast_2d(trace[index][0])  # [n, in]
        dw = a.T @ dz  # [in, out]
        db = None if params[index].bias is None else dz.sum(axis=0)  # [out]
        grads.append(Dense(dw, db))
        if index:
            da = dz @ params[index].weight.T  # [n, in]
            dz = da * derivative(trace[index - 1][1])  # [n, in]
    return tuple(reversed(grads))


def numerical_gradient(
    params: Params,
    x: Num[ArrayLike, "*batch features"],
    t: Targets,
    *,
    activation: ActivationName = "sigmoid",
    h: int | float = 1e-4,
) -> Params:
    """Return the gradient of `loss` in params by central differences, element by element; same pytree.

    The source's (4.3), computed in float64 by `differentiation.numerical_gradient`. Comes back in the
    types of params. Raises as `loss`, and ValueError for an h that is not positive.

    >>> params = init(jax.random.key(0), (4, 3, 2))
    >>> x, t = jnp.ones((5, 4)), jnp.array([0, 1, 1, 0, 1])
    >>> numerical, exact = numerical_gradient(params, x, t), jax.grad(loss)(params, x, t)
    >>> bool(jnp.allclose(numerical[0].weight, exact[0].weight, atol=1e-7))
    True
    """
    if not 0 < h < float("inf"):
        raise ValueError(f"h must be positive and finite, got {h}")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(float), params)
        inputs = jnp.asarray(_as_float(x, "x"), float)
        loss(wide, inputs, t, activation=activation)  # what is wrong is said before anything is compiled
        gradient = differentiation.numerical_gradient(
            lambda p: loss(p, inputs, t, activation=activation), wide, h
        )
        result: Params = jax.tree.map(_like, gradient, params)
        return result


def _like(array: ArrayLike, old: Array | np.ndarray) -> Any:
    """Return an array in the type of another, of JAX or of NumPy."""
    return jnp.asarray(array, old.dtype) if isinstance(old, Array) else np.asarray(array, old.dtype)


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _is_positive_int(size: object) -> bool:
    return isinstance(size, (int, np.integer)) and not isinstance(size, bool) and int(size) > 0
