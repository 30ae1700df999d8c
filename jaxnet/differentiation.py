"""Numerical differentiation and gradient descent by it (source 4.2).

Everything here is computed in float64, whatever the process's setting, and given back as it came: JAX arrays
as JAX arrays of their own dtype, NumPy arrays as NumPy arrays, Python numbers as Python floats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxnet.gradcheck.estimate import Estimate, Status, complex_step, mismatch, richardson
from jaxnet.gradcheck.evaluate import Target
from jaxnet.gradcheck.problem import float64, ordinary
from jaxnet.gradcheck.widen import hoisted, widen

PyTree = Any
STEP = 1e-4  # the source's h


def numerical_diff(f: Callable[[Any], Any], x: ArrayLike, h: int | float = STEP) -> Any:
    """Return the central difference `(f(x + h) - f(x - h)) / 2h`, the derivative of f at x.

    f: a function of one number; of an array, if it works element by element. Source: 4.2.

    Raises:
        TypeError: x is an integer array (x ± h would be truncated) or is not real.
        ValueError: x is not finite, or h is not positive.

    >>> numerical_diff(lambda x: 0.01 * x**2 + 0.1 * x, 10)
    0.2999999999986347
    """
    _check_positive(h, "h")
    with jax.enable_x64(True):
        point = _to_float64(x, "x")
        return _like(x, (f(point + h) - f(point - h)) / (2 * h))


def tangent_line(f: Callable[[Any], Any], x: ArrayLike) -> Callable[[Any], Any]:
    """Return the tangent of f at x, the function `t ↦ d·t + (f(x) - d·x)` with `d = numerical_diff(f, x)`.

    Source: 4.2. Raises as `numerical_diff`.

    >>> tangent = tangent_line(lambda x: x**2, 3.0)
    >>> round(tangent(4.0), 6)
    15.0
    """
    slope = numerical_diff(f, x)
    with jax.enable_x64(True):
        intercept = _like(x, f(_to_float64(x, "x")) - slope * _to_float64(x, "x"))
    return lambda t: slope * t + intercept


def numerical_gradient(f: Callable[[PyTree], Any], params: PyTree, h: int | float = STEP) -> PyTree:
    """Return the gradient of a scalar function of a pytree by central differences, one element at a time.

    `(f(params + h·e_i) - f(params - h·e_i)) / 2h` for every element i. f must be traceable by JAX; params are
    left as they are. Many elements are perturbed at a time, in bounded memory; where one touches little of
    what f computes, as in a network, only that is computed again. Source: 4.2.

    Raises:
        TypeError: a leaf is an integer array (x ± h would be truncated) or not real, or f does not return a
            real scalar.
        ValueError: there is no leaf, a leaf is not finite, or h is not positive.

    >>> numerical_gradient(lambda x: (x**2).sum(), np.array([3.0, 4.0])).round(9)
    array([6., 8.])
    """
    _check_positive(h, "h")
    with ordinary(), float64(f, args=(params,)):
        point = _params_to_float64(params)
        _check_float64(f, point)
        if _is_traced(point):
            return jax.tree.map(_like, params, _inside_a_trace(f, point, h))
        target = _target(f, point)
        return jax.tree.map(_like, params, _unflatten(point, target, _central_differences(target, h)))


def _central_differences(target: Target, h: int | float) -> np.ndarray:
    ends = np.stack([target.flat + h, target.flat - h], axis=1)
    values = target.elements(np.arange(target.flat.size), ends).value
    result: np.ndarray = (values[:, 0] - values[:, 1]) / (2 * h)
    return result


def _is_traced(point: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(point))


def _inside_a_trace(f: Callable[[PyTree], Any], point: PyTree, h: int | float) -> PyTree:
    """Return central differences at a point that jit or vmap is tracing."""
    flat, unravel = ravel_pytree(point)

    def difference(index: Array) -> Array:
        x = flat[index]
        above, below = (f(unravel(flat.at[index].set(moved))) for moved in (x + h, x - h))
        slope: Array = (above - below) / (2 * h)
        return slope

    return unravel(jax.lax.map(difference, jnp.arange(flat.size)))


class GradientEstimate(NamedTuple):
    """A numerical gradient and the error bar of each of its elements; both have the structure of params."""

    estimate: PyTree
    error: PyTree


def richardson_gradient(f: Callable[[PyTree], Any], params: PyTree) -> GradientEstimate:
    """Return the gradient of a scalar function of a pytree by extrapolated central differences.

    Steps of each element are scaled to it, and chosen so that truncation and noise are smallest together. The
    true derivative is within the error, which is infinite where f jumps or is finite at no step. Both are
    float64: NumPy arrays for arrays, floats for numbers. At a kink the estimate is the mean of the
    one-sided slopes, and the error reaches both. L. F. Richardson, The deferred approach to the limit, Phil.
    Trans. R. Soc. A 226, 1927.

    Raises:
        TypeError: as `numerical_gradient`, but f may return any floating-point type.
        ValueError: as `numerical_gradient`.

    >>> estimate, error = richardson_gradient(lambda x: jnp.sin(x).sum(), np.array([0.0, 1.0]))
    >>> bool(np.all(abs(estimate - np.cos([0.0, 1.0])) <= error)), bool(error.max() < 1e-9)
    (True, True)
    """
    with ordinary(), float64(f, args=(params,)):
        target = _scalar_target(f, params).sharpened()

        def unsettled(found: Estimate) -> np.ndarray:
            size = np.abs(found.value[np.isfinite(found.value)]).max(initial=0)
            accurate = found.error <= np.maximum(1e-6 * np.abs(found.value), 1e-9 * size)
            result: np.ndarray = ~found.confirmed | ~accurate
            return result

        found = richardson(target, np.arange(target.flat.size), unsettled)
        # At a kink, and beside its mean slope, both slopes are within the error.
        error = np.nan_to_num(found.error + (found.high - found.low) / 2, nan=np.inf, posinf=np.inf)
        return GradientEstimate(_unflatten(params, target, found.value), _unflatten(params, target, error))


def complex_step_gradient(f: Callable[[PyTree], Any], params: PyTree) -> PyTree:
    """Return the gradient of an analytic scalar function of a pytree to machine precision.

    `Im f(x + ih) / h` with a tiny h, in which nothing cancels. The result is float64: NumPy arrays for
    arrays, floats for numbers. W. Squire and G. Trapp, Using complex variables to estimate derivatives of
    real functions, SIAM Review 40, 1998.

    Raises:
        TypeError: as `numerical_gradient`; or f uses a real-only operation: one that takes no complex number,
            or makes a real one of it.
        ValueError: as `numerical_gradient`; or f is not analytic: the result contradicts the central
            difference.

    >>> bool(abs(complex_step_gradient(lambda x: jnp.exp(x) / x, 2.0) - np.exp(2.0) / 4) < 1e-15)
    True
    """
    with ordinary(), float64(f, args=(params,)):
        target = _scalar_target(f, params)
        everywhere = np.arange(target.flat.size)
        try:
            values, _ = complex_step(target, everywhere)
        except TypeError as error:
            raise TypeError(f"f must be analytic for a complex step, but has {error}") from error
        found = richardson(target, everywhere, lambda found: mismatch(found, values))
        # Where f jumps, or ends with a slope without end, there is nothing for the step to be right about.
        nothing = np.isinf(found.error) & ((found.status == Status.JUMP) | (found.status == Status.EDGE))
        wrong = np.flatnonzero(mismatch(found, values) | nothing)
        if wrong.size:
            first = wrong[0]
            raise ValueError(
                f"f must be analytic for a complex step, but for element {first} it gives "
                f"{values[first]:.6g} where the central difference is {found.value[first]:.6g} ± "
                f"{found.error[first]:.1g}"
            )
        return _unflatten(params, target, values)


def _target(f: Callable[[PyTree], Any], point: PyTree) -> Target:
    """Return f of the leaves of a float64 point, for evaluation near it."""
    leaves, tree = jax.tree.flatten(point)
    traced = jax.make_jaxpr(lambda *new: f(jax.tree.unflatten(tree, new)))(*leaves)
    return Target([np.asarray(leaf) for leaf in leaves], jaxpr=widen(hoisted(traced)).jaxpr)


def _scalar_target(f: Callable[[PyTree], Any], params: PyTree) -> Target:
    point = _params_to_float64(params)
    _check_scalar(f, point)
    return _target(f, point)


def _unflatten(params: PyTree, target: Target, values: np.ndarray) -> PyTree:
    pieces = np.split(values, target.starts[1:-1])
    leaves = [
        piece.reshape(np.shape(leaf))
        if np.ndim(leaf) or not isinstance(leaf, (int, float))
        else float(piece[0])
        for piece, leaf in zip(pieces, jax.tree.leaves(params), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def gradient_descent(
    f: Callable[[PyTree], Any], init_x: PyTree, lr: int | float = 0.01, step_num: int = 1000
) -> PyTree:
    """Return init_x after step_num steps of `x ← x - lr · numerical_gradient(f, x)`; init_x stays as it is.

    Source: 4.2. Raises as `numerical_gradient`, and ValueError if lr is not positive or step_num is negative.

    >>> gradient_descent(lambda x: (x**2).sum(), np.array([-3.0, 4.0]), lr=0.1, step_num=100).round(6)
    array([-0.,  0.])
    """
    _check_positive(lr, "lr")
    if not isinstance(step_num, (int, np.integer)) or step_num < 0:
        raise ValueError(f"step_num must be an integer, 0 or more, got {step_num!r}")
    with ordinary(), float64(f, args=(init_x,)):
        point = _params_to_float64(init_x)
        _check_float64(f, point)
        if _is_traced(point):
            for _ in range(step_num):
                slopes = _inside_a_trace(f, point, STEP)
                point = jax.tree.map(lambda leaf, slope: leaf - lr * slope, point, slopes)
            return jax.tree.map(_like, init_x, point)
        target = _target(f, point)
        for _ in range(step_num):
            target = target.moved(target.flat - lr * _central_differences(target, STEP))
        return jax.tree.map(_like, init_x, _unflatten(point, target, target.flat))


def _to_float64(x: Any, name: str) -> Any:
    """Return x in float64 (call it where x64 is enabled), or say why it cannot be differentiated at."""
    if isinstance(x, (bool, complex)) or not isinstance(x, (int, float, np.generic, np.ndarray, Array)):
        raise TypeError(f"{name} must be a real number or a floating-point array, got {type(x).__name__}")
    if isinstance(x, (int, float)) and not isinstance(x, np.generic):
        point: Any = float(x)
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {x.dtype}: a small step would be truncated")
    else:
        point = x.astype(np.float64)
    if not isinstance(point, jax.core.Tracer) and not np.isfinite(point).all():
        raise ValueError(
            f"{name} must be finite, got {x}" if np.ndim(x) == 0 else f"{name} holds NaN or infinity"
        )
    return point


def _params_to_float64(params: PyTree) -> PyTree:
    if not sum(np.size(leaf) for leaf in jax.tree.leaves(params)):
        raise ValueError("params must hold at least one number, got none")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(_to_float64(leaf, "params" + jax.tree_util.keystr(path))), params
    )


def _check_scalar(f: Callable[..., Any], *args: Any, name: str = "f") -> jax.ShapeDtypeStruct:
    value = jax.eval_shape(f, *args)
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(f"{name} must return a real scalar, got {type(value).__name__}")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} must return a real scalar, got {value.dtype} of shape {list(value.shape)}")
    return value


def _check_float64(f: Callable[[PyTree], Any], point: PyTree) -> None:
    dtype = _check_scalar(f, point).dtype
    if dtype != np.float64:
        raise TypeError(
            f"f must keep the float64 it is given, or differences of it are noise; it returns {dtype}"
        )


def _check_positive(value: float, name: str) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def _like(original: Any, result: Any) -> Any:
    if isinstance(original, Array):
        return jnp.asarray(result, original.dtype)
    if isinstance(original, (np.ndarray, np.generic)):
        return np.asarray(result).astype(original.dtype)[()]
    return float(result)
