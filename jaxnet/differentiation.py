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

from jaxnet._probe import Probe, float64, holds_numpy
from jaxnet.estimates import Estimate, complex_step, mismatch, noise, richardson

PyTree = Any
STEP = 1e-4  # the source's h
_CHUNK_BYTES = 2**26


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
    left as they are. Elements are perturbed many at a time, as many as 64 MiB of copies of params allow.
    Source: 4.2.

    Raises:
        TypeError: a leaf is an integer array (x ± h would be truncated) or not real, or f does not return a
            real scalar.
        ValueError: there is no leaf, a leaf is not finite, or h is not positive.

    >>> numerical_gradient(lambda x: (x**2).sum(), np.array([3.0, 4.0])).round(9)
    array([6., 8.])
    """
    _check_positive(h, "h")
    with float64(holds_numpy(f, params)):
        point = _params_to_float64(params)
        _check_float64(f, point)
        gradient = jax.jit(lambda p: _central_differences(f, p, h))(point)
        return jax.tree.map(_like, params, gradient)


class GradientEstimate(NamedTuple):
    """A numerical gradient and the error bar of each of its elements; both have the structure of params."""

    estimate: PyTree
    error: PyTree


def richardson_gradient(f: Callable[[PyTree], Any], params: PyTree) -> GradientEstimate:
    """Return the gradient of a scalar function of a pytree by extrapolated central differences.

    Steps of each element are scaled to it, and chosen so that truncation and the noise of f, estimated first,
    are smallest together; the error is estimated from the extrapolation table and is infinite where f is
    finite at no step. Both results are float64: NumPy arrays for arrays, floats for numbers. At a kink the
    estimate is the mean of the one-sided slopes. L. F. Richardson, The deferred approach to the limit, Phil.
    Trans. R. Soc. A 226, 1927.

    Raises:
        TypeError: as `numerical_gradient`, but f may return any floating-point type.
        ValueError: as `numerical_gradient`.

    >>> estimate, error = richardson_gradient(lambda x: jnp.sin(x).sum(), np.array([0.0, 1.0]))
    >>> bool(np.all(abs(estimate - np.cos([0.0, 1.0])) <= error)), bool(error.max() < 1e-9)
    (True, True)
    """
    with float64(holds_numpy(f, params)):
        probe = _probe(f, params)

        def unsettled(found: Estimate) -> np.ndarray:
            size = np.abs(found.value[np.isfinite(found.value)]).max(initial=0)
            accurate = found.error <= np.maximum(1e-6 * np.abs(found.value), 1e-9 * size)
            return ~found.confirmed | ~accurate

        found = richardson(probe, np.arange(probe.flat.size), noise(probe), unsettled)
        return GradientEstimate(
            _unflatten(params, probe, found.value), _unflatten(params, probe, found.error)
        )


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
    with float64(holds_numpy(f, params)):
        probe = _probe(f, params)
        everywhere = np.arange(probe.flat.size)
        try:
            values = complex_step(probe, everywhere)
        except TypeError as error:
            raise TypeError(f"f must be analytic for a complex step, but has {error}") from error
        found = richardson(probe, everywhere, noise(probe), lambda found: mismatch(found, values))
        wrong = np.flatnonzero(mismatch(found, values))
        if wrong.size:
            first = wrong[0]
            raise ValueError(
                f"f must be analytic for a complex step, but for element {first} it gives "
                f"{values[first]:.6g} where the central difference is {found.value[first]:.6g} ± "
                f"{found.error[first]:.1g}"
            )
        return _unflatten(params, probe, values)


def _probe(f: Callable[[PyTree], Any], params: PyTree) -> Probe:
    point = _params_to_float64(params)
    _check_scalar(f, point)
    probe = Probe(lambda point, _: f(point), point)
    probe.trace()
    return probe


def _unflatten(params: PyTree, probe: Probe, values: np.ndarray) -> PyTree:
    pieces = np.split(values, probe.starts[1:-1])
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
    with jax.enable_x64(True):
        point = _params_to_float64(init_x)
        _check_float64(f, point)

        def step(_: Array, x: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf, d: leaf - lr * d, x, _central_differences(f, x, STEP))

        final = jax.jit(lambda x, steps: jax.lax.fori_loop(0, steps, step, x))(point, step_num)
        return jax.tree.map(_like, init_x, final)


def _central_differences(f: Callable[[PyTree], Any], params: PyTree, h: int | float) -> PyTree:
    flat, unravel = ravel_pytree(params)
    chunk = max(1, min(flat.size, _CHUNK_BYTES // (2 * flat.nbytes)))

    def difference(index: Array) -> Array:
        x = flat[index]
        return (f(unravel(flat.at[index].set(x + h))) - f(unravel(flat.at[index].set(x - h)))) / (2 * h)

    return unravel(jax.lax.map(difference, jnp.arange(flat.size), batch_size=chunk))


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
