"""Losses: from probabilities as the source writes them (4.1), and exact from the logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num, Shaped

from jaxnet.activations import _as_float

Targets = Shaped[ArrayLike, "..."] | list[Any]  # integer labels, or one-hot or soft rows
EPSILON = 1e-7  # what the source adds inside the logarithm
_ROW_SUM_TOLERANCE = 1e-3  # one-hot and soft targets in half precision still pass


def mean_squared_error(
    y: Num[ArrayLike, "*shape"] | list[Any], t: Num[ArrayLike, "*shape"] | list[Any]
) -> Float[Array, ""]:
    """Return half the sum of squared differences, `½ Σ (y - t)²`, over every element.

    Neither a mean nor divided by the batch: the name is the source's (4.1).

    Raises:
        ValueError: the shapes differ, or there is no element.

    >>> mean_squared_error([0.0, 1.0], [0.0, 0.5])
    Array(0.125, dtype=float32)
    """
    y, t = _same_shape(y, t)
    return 0.5 * jnp.sum((y - t) ** 2)


def cross_entropy_error0(
    y: Num[ArrayLike, "*shape"] | list[Any], t: Num[ArrayLike, "*shape"] | list[Any]
) -> Float[Array, ""]:
    """Return the cross entropy of one example, `-Σ t · log(y + 1e-7)`, of probabilities y.

    Source: 4.1. The 1e-7 keeps the logarithm finite and makes the loss inexact: `softmax_cross_entropy` is
    not.

    Raises:
        ValueError: the shapes differ, or there is no element.

    >>> round(float(cross_entropy_error0([0.25, 0.75], [0.0, 1.0])), 4)
    0.2877
    """
    y, t = _same_shape(y, t)
    return -jnp.sum(t * jnp.log(y + EPSILON))


def cross_entropy_error(
    y: Num[ArrayLike, "..."] | list[Any], t: Num[ArrayLike, "..."] | list[Any]
) -> Float[Array, ""]:
    """Return the mean cross entropy of a batch, `-Σ t · log(y + 1e-7) / n`, with one-hot targets.

    y, t: [n, classes], or [classes] for a batch of one. Source: 4.1.

    Raises:
        ValueError: the shapes differ or are of another rank, or the batch is empty.

    >>> round(float(cross_entropy_error([[0.5, 0.5], [0.25, 0.75]], [[1, 0], [1, 0]])), 4)
    1.0397
    """
    y, t = _same_shape(y, t)
    _check_rank(y, "y")
    return -jnp.sum(t * jnp.log(y + EPSILON)) / (1 if y.ndim == 1 else y.shape[0])


def cross_entropy_label(
    y: Num[ArrayLike, "..."] | list[Any], t: Int[ArrayLike, "..."] | list[Any]
) -> Float[Array, ""]:
    """Return the mean cross entropy of a batch with integer labels, `-Σ log(y[i, t[i]] + 1e-7) / n`.

    y: probabilities [n, classes] and t: labels [n]; or [classes] and a single label. Source: 4.1.

    Raises:
        TypeError: the labels are not integers.
        ValueError: the shapes do not fit, the batch is empty, or a label is out of range.

    >>> round(float(cross_entropy_label([[0.5, 0.5], [0.25, 0.75]], [0, 0])), 4)
    1.0397
    """
    y, t = _as_float(y, "y"), _host_values(t)
    _check_rank(y, "y")
    if y.ndim == 1:
        y, t = y[None], t.reshape(-1)
    if t.ndim != 1:
        raise ValueError(f"t must be integer labels of shape [{y.shape[0]}], got shape {list(t.shape)}")
    distribution, _ = target_distribution(t, y.shape, y.dtype)
    return -jnp.mean(jnp.sum(_times_log(distribution, jnp.log(y + EPSILON)), axis=-1))


def softmax_cross_entropy(
    logits: Num[ArrayLike, "..."] | list[Any],
    t: Targets,
    *,
    class_weight: Num[ArrayLike, " classes"] | list[Any] | None = None,
    sample_weight: Num[ArrayLike, " n"] | list[Any] | None = None,
) -> Float[Array, ""]:
    """Return the mean cross entropy of `softmax(logits)`, exact and stable for any finite logits.

    `mean_i(logsumexp(z_i) - Σ_k t_ik z_ik)`; its gradient is exactly `(softmax(z) - t) / n`.

    logits: [n, classes] or [classes]; t: integer labels [n] (or one), or one-hot or soft rows like the
    logits, each summing to 1.

    With weights it is the weighted mean, `Σ w_i l_i / Σ w_i`: `sample_weight` [n] of the examples, times
    `class_weight` [classes] of their classes (of soft rows `Σ_k t_ik c_k`).

    Raises:
        TypeError: t has the shape of labels and is not of an integer type.
        ValueError: the shapes do not fit, the batch is empty, or (where values can be seen, which is not so
            inside `jax.jit`: there the loss is NaN) a label is out of range, a row does not sum to 1, a
            weight is negative or not finite, or all weights are zero.

    >>> softmax_cross_entropy([[0.0, 1000.0], [1000.0, 0.0]], [0, 0])
    Array(500., dtype=float32)
    >>> softmax_cross_entropy([[0.0, 1000.0], [1000.0, 0.0]], [0, 1], class_weight=[1, 3])
    Array(1000., dtype=float32)
    """
    logits = _as_float(logits, "logits")
    _check_rank(logits, "logits")
    distribution, _ = target_distribution(t, logits.shape, logits.dtype)
    each = -jnp.sum(_times_log(distribution, jax.nn.log_softmax(logits)), axis=-1)
    if class_weight is None and sample_weight is None:
        return jnp.mean(each)
    share = weight_shares(distribution, class_weight, sample_weight)
    return jnp.sum(jnp.where(share == 0, 0, share * each))


def weight_shares(
    distribution: Float[Array, "*batch c"],
    class_weight: Num[ArrayLike, "..."] | list[Any] | None,
    sample_weight: Num[ArrayLike, "..."] | list[Any] | None,
) -> Float[Array, "*batch"]:
    """Return each example's share of a weighted mean, `w_i / Σ w_i`. Raises as `softmax_cross_entropy`."""
    batch, dtype = distribution.shape[:-1], distribution.dtype
    weights = jnp.ones(batch, dtype)
    if class_weight is not None:
        weights = distribution @ _weights(class_weight, distribution.shape[-1:], dtype, "class_weight")
    if sample_weight is not None:
        weights = weights * _weights(sample_weight, batch, dtype, "sample_weight")
    return weights / weights.sum()


def _weights(
    values: ArrayLike | list[Any], shape: tuple[int, ...], dtype: jnp.dtype | np.dtype | type, name: str
) -> Array:
    values = _host_values(values)
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(values.shape)}")
    if isinstance(values, np.ndarray):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must be finite and not negative, got {values.tolist()}")
        if not values.any():
            raise ValueError(f"{name} must not be all zero, got {values.tolist()}")
    return jnp.asarray(values, dtype)


def target_distribution(
    t: Targets, shape: tuple[int, ...], dtype: jnp.dtype | np.dtype | type
) -> tuple[Float[Array, "*batch c"], Int[Array, "*batch"]]:
    """Return targets as rows of probabilities of the given shape, and as integer labels.

    t: integer labels `shape[:-1]`, or one-hot or soft rows of exactly `shape`.

    Raises:
        TypeError: t has the shape of labels and is not of an integer type.
        ValueError: t has neither shape, or (concrete arrays only) a label is outside `0..shape[-1] - 1` or a
            row holds a negative value or does not sum to 1. Of a traced array such rows become NaN, so that
            the loss of a compiled function says so too.
    """
    t = _host_values(t)
    traced = isinstance(t, Array)
    classes = shape[-1]
    if t.shape == shape[:-1]:
        if not jnp.issubdtype(t.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, got {t.dtype} of shape {list(t.shape)}")
        valid = (t >= 0) & (t < classes)
        if not traced and not valid.all():
            first = int(np.flatnonzero(~valid)[0])
            raise ValueError(
                f"labels must be in 0..{classes - 1}, got {t.reshape(-1)[first]} at index {first}"
            )
        labels = jnp.asarray(t)
        known = jnp.arange(classes).reshape((1,) * labels.ndim + (-1,))
        rows = (labels[..., None] == known).astype(dtype)
    elif t.shape == shape:
        if not any(jnp.issubdtype(t.dtype, kind) for kind in (jnp.integer, jnp.floating, jnp.bool_)):
            raise TypeError(f"targets must be real numbers, got {t.dtype}")
        sums = t.sum(axis=-1, dtype=None if jnp.issubdtype(t.dtype, jnp.floating) else int)
        valid = (abs(sums - 1) <= _ROW_SUM_TOLERANCE) & (t >= 0).all(axis=-1)
        if not traced and not valid.all():
            first = int(np.flatnonzero(~valid)[0])
            raise ValueError(
                f"one-hot targets must be non-negative rows that sum to 1, got a row that sums to "
                f"{float(sums.reshape(-1)[first]):.6g} at index {first}"
            )
        rows = jnp.asarray(t).astype(dtype)
        labels = jnp.argmax(rows, axis=-1)
    else:
        raise ValueError(
            f"targets must be integer labels of shape {list(shape[:-1])} or one-hot rows of shape "
            f"{list(shape)}, got shape {list(t.shape)}"
        )
    return (jnp.where(jnp.asarray(valid)[..., None], rows, jnp.nan) if traced else rows), labels


def _host_values(t: ArrayLike | list[Any]) -> Array | np.ndarray:
    # A NumPy array wherever the values can be seen, so that they are checked also inside `jax.grad` over
    # params.
    if isinstance(t, jax.core.Tracer):
        return t
    try:
        return np.asarray(t)
    except jax.errors.TracerArrayConversionError:  # a list of tracers
        return jnp.asarray(t)
    except ValueError:
        raise ValueError("targets must be an array, got rows of different lengths") from None


def _times_log(distribution: Array, log_probability: Array) -> Array:
    # 0 · log 0 is 0, as in the limit, not NaN.
    impossible = (distribution == 0) & jnp.isneginf(log_probability)
    return distribution * jnp.where(impossible, 0, log_probability)


def _same_shape(y: ArrayLike | list[Any], t: ArrayLike | list[Any]) -> tuple[Array, Array]:
    y, t = _as_float(y, "y"), _as_float(t, "t")
    if y.shape != t.shape:
        raise ValueError(f"y and t must have the same shape, got {list(y.shape)} and {list(t.shape)}")
    if y.size == 0:
        raise ValueError(f"the batch must not be empty, got shape {list(y.shape)}")
    return y, t


def _check_rank(y: Array, name: str) -> None:
    if y.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape [n, classes] or [classes], got {list(y.shape)}")
    if y.size == 0:
        raise ValueError(f"the batch must not be empty, got {name} of shape {list(y.shape)}")
