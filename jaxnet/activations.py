"""Activation functions and their derivatives (source 4.2, 4.3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num


def _as_float(x: ArrayLike | list[Any], name: str) -> Array:
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError):  # text, None, rows of different lengths
        got = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name} must be an array of real numbers, got {got}") from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {array.dtype}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def sigmoid(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return the logistic function `1 / (1 + exp(-x))`, elementwise.

    Finite and free of overflow for every finite `x`. Source: 4.3, whose own form overflows below -88 in
    float32 (see ERRATA).

    >>> sigmoid([-1000.0, 0.0, 1000.0])
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    return jax.nn.sigmoid(_as_float(x, "x"))


def sigmoid_grad(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return the derivative of `sigmoid` at `x`, elementwise.

    `s(x) · s(-x)`, which equals the source's `(1 - s) · s` without its cancellation where `s` is near 1.
    Source: 4.3.

    >>> sigmoid_grad([0.0])
    Array([0.25], dtype=float32)
    """
    x = _as_float(x, "x")
    return jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


def relu(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return `max(x, 0)`, elementwise.

    >>> relu([-1.0, 2.0])
    Array([0., 2.], dtype=float32)
    """
    return jax.nn.relu(_as_float(x, "x"))


def relu_grad(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return the derivative of `relu` at `x`, elementwise; 0 at the kink, as `jax.grad` has it.

    >>> relu_grad([-1.0, 0.0, 2.0])
    Array([0., 0., 1.], dtype=float32)
    """
    x = _as_float(x, "x")
    return (x > 0).astype(x.dtype)


def tanh(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return the hyperbolic tangent, elementwise.

    >>> tanh([0.0, 100.0])
    Array([0., 1.], dtype=float32)
    """
    return jnp.tanh(_as_float(x, "x"))


def tanh_grad(x: Num[ArrayLike, "*shape"] | list[Any]) -> Float[Array, "*shape"]:
    """Return the derivative of `tanh` at `x`, elementwise.

    `4 · s(2x) · s(-2x)` with the sigmoid `s`, which equals `1 - tanh(x)²` without its cancellation.

    >>> tanh_grad([0.0])
    Array([1.], dtype=float32)
    """
    return 4 * sigmoid_grad(2 * _as_float(x, "x"))


def softmax(x: Num[ArrayLike, "*shape"] | list[Any], axis: int | None = -1) -> Float[Array, "*shape"]:
    """Return `exp(x)` divided by its sum over `axis`, without overflow.

    Every row sums to 1 by default. `axis=None` takes the sum over the whole array, as the source publishes it
    (4.2): right for a single example, the reason why its network does not learn from a batch (see ERRATA).

    >>> softmax([[1.0, 1.0], [0.0, 1000.0]])
    Array([[0.5, 0.5],
           [0. , 1. ]], dtype=float32)
    """
    x = _as_float(x, "x")
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be None or in {-x.ndim}..{x.ndim - 1} for shape {x.shape}, got {axis}")
    return jax.nn.softmax(x, axis=axis)


class Activation(NamedTuple):
    """An activation and its derivative, both functions of the pre-activation."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_grad),
    "relu": Activation(relu, relu_grad),
    "tanh": Activation(tanh, tanh_grad),
}
