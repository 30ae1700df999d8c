"""Operations near the real axis: what they make of real numbers with a tiny imaginary step.

A function that is analytic but for its decisions carries the step through: `Im f(x + ih) / h` is its
derivative. What decides, decides by the real part.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.gradcheck.interpret import bind, has_step, inside, walk

# fmt: off
_ORDERINGS = {
    "argmax", "argmin", "ceil", "eq", "floor", "ge", "gt", "is_finite", "le", "lt", "ne", "round", "sign",
}  # of complex numbers: by real part
_EXTREMA = {"max": jnp.greater_equal, "min": jnp.less_equal}
_REAL_ONLY = {
    "cholesky", "conj", "eig", "eigh", "geqrf", "householder_product", "imag", "qr", "real", "svd",
}
# fmt: on
_SQUARED = 1024  # numbers in a row whose every pair may be looked at
# Of these XLA's complex forms lose the digits of a tiny imaginary part, do not reduce a large argument, or go
# on where the real function ends.
_SLOPES: dict[str, Callable[[Any], Any]] = {
    "acos": lambda x: -1 / jnp.sqrt((1 - x) * (1 + x)),
    "acosh": lambda x: 1 / (jnp.sqrt(x - 1) * jnp.sqrt(x + 1)),
    "asin": lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)),
    "cbrt": lambda x: 1 / (3 * jnp.cbrt(x) ** 2),
    "cos": lambda x: -jnp.sin(x),
    "cosh": jnp.sinh,
    "expm1": jnp.exp,
    "sin": jnp.cos,
    "sinh": jnp.cosh,
    "sqrt": lambda x: 0.5 / jnp.sqrt(x),
    "tan": lambda x: 1 + jnp.tan(x) ** 2,
}


def evaluate(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Return an equation's results for other values, possibly complex ones or of another shape."""
    if has_step(eqn, values):
        if any(jnp.issubdtype(atom.aval.dtype, jnp.complexfloating) for atom in [*eqn.invars, *eqn.outvars]):
            raise TypeError(f"{eqn.primitive.name} is complex by itself")
        return _bind_complex(eqn, list(values))
    found = bind(eqn, values)
    kind = eqn.outvars[0].aval.dtype if eqn.primitive.name in ("ceil", "floor", "rem", "round") else bool
    if jnp.issubdtype(kind, jnp.floating):
        # Where all numbers are whole, none beside a point is on the same step.
        whole = values[0] / values[1] if len(values) > 1 else values[0]
        return [jnp.where(jnp.abs(whole) < 2.0**52, found[0], jnp.nan)]
    return found


def _bind_complex(eqn: Any, values: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if "scatter" in name:
        return _scatter(eqn, values)
    if name in _REAL_ONLY or inside(eqn) or "callback" in name:
        raise TypeError(f"{name} does not take complex numbers")
    if name in _ORDERINGS:
        return bind(eqn, [v.real if np.iscomplexobj(v) else v for v in values])
    if name in _EXTREMA:
        return [jnp.where(_EXTREMA[name](values[0].real, values[1].real), *values)]
    if name in _SLOPES:
        x = values[0].real
        return [lax.complex(bind(eqn, [x])[0], values[0].imag * _SLOPES[name](x))]
    if name == "abs":
        return [jnp.where(values[0].real < 0, -values[0], values[0])]
    if name == "clamp":
        low, x, high = values
        return [jnp.where(x.real < low.real, low, jnp.where(x.real > high.real, high, x))]
    if name == "rem":
        x, y = values
        return [x - y * jnp.trunc(x.real / y.real)]
    if name == "atan2":
        return [_complex_angle(*values)]
    if name == "pow":
        return [_complex_power(*values)]
    if name == "cumlogsumexp" and values[0].shape[params["axis"]] <= _SQUARED:
        return [_complex_cumlogsumexp(eqn, values[0])]
    if name in ("reduce_max", "reduce_min"):
        x, axes = values[0], params["axes"]
        extreme = x.real == (jnp.max if name == "reduce_max" else jnp.min)(x.real, axes, keepdims=True)
        return [jnp.sum(jnp.where(extreme, x, 0), axes) / jnp.sum(extreme, axes)]
    if name == "convert_element_type":
        if not jnp.issubdtype(params["new_dtype"], jnp.floating):
            return bind(eqn, [values[0].real])
        return [values[0].astype(jnp.result_type(params["new_dtype"], jnp.complex64))]
    if name in ("conv_general_dilated", "dot_general"):
        return [_complex_product(eqn, *values)]
    wide = jnp.result_type(*(v for v in values if np.iscomplexobj(v)))
    values = [v.astype(wide) if jnp.issubdtype(v.dtype, jnp.inexact) else v for v in values]
    changes = {"preferred_element_type": None} if "preferred_element_type" in params else {}
    try:
        return bind(eqn, values, **changes)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"{name} does not take complex numbers") from error


def _scatter(eqn: Any, values: list[Any]) -> list[Any]:
    operand, indices, updates = values
    operand, updates = operand.astype(complex), updates.astype(complex)
    inner, consts = eqn.params["update_jaxpr"], eqn.params["update_consts"]
    if inner is None:
        return bind(eqn, [operand, indices, updates])
    number = jax.ShapeDtypeStruct((), complex)
    update = jax.make_jaxpr(lambda a, b: walk(inner, consts, [a, b], evaluate))(number, number)
    consts = tuple(update.consts)
    return bind(eqn, [operand, indices, updates], update_jaxpr=update.jaxpr, update_consts=consts)


def _complex_power(x: Any, y: Any) -> Any:
    """Return x^y near the real axis; of a base that is not positive by its slope."""
    base, step, exponent = jnp.real(x), jnp.imag(x), jnp.real(y)
    slope = jnp.where(exponent == 0, 0.0, exponent * base ** (exponent - 1))
    positive = jnp.power(jnp.where(base > 0, x, 1.0), y)
    return jnp.where(base > 0, positive, lax.complex(base**exponent, slope * step))


def _complex_angle(y: Any, x: Any) -> Any:
    """Return the angle of (x, y) near the real plane: by logarithms a small one would be lost."""
    far = jnp.hypot(jnp.real(x), jnp.real(y))
    step = jnp.real(x) / far * (jnp.imag(y) / far) - jnp.real(y) / far * (jnp.imag(x) / far)
    return lax.complex(jnp.arctan2(jnp.real(y), jnp.real(x)), step)


def _complex_cumlogsumexp(eqn: Any, x: Any) -> Any:
    """Return the logarithms of sums of exponentials by their slopes: phases are kept modulo 2 pi."""
    axis, (value,) = eqn.params["axis"], bind(eqn, [x.real])
    each, total = (jnp.moveaxis(array, axis, -1) for array in (x, value))
    order = jnp.arange(each.shape[-1])
    before = order[:, None] <= order if eqn.params["reverse"] else order[:, None] >= order
    shares = jnp.where(before, jnp.exp(each.real[..., None, :] - total[..., :, None]), 0)
    step = jnp.sum(shares * each.imag[..., None, :], axis=-1)
    return lax.complex(value, jnp.moveaxis(step, -1, axis))


def _complex_product(eqn: Any, x: Any, w: Any) -> Any:
    """Return a convolution or a product of matrices by real ones.

    In three products of sums of real and imaginary parts, as a GPU may take for four, a tiny step is lost.
    """

    def real(a: Any, b: Any) -> Any:
        return bind(eqn, [a, b], preferred_element_type=None)[0]

    steps = [real(x.real, w.imag)] if np.iscomplexobj(w) else []
    steps += [real(x.imag, w.real)] if np.iscomplexobj(x) else []
    return lax.complex(real(x.real, w.real), sum(steps[1:], steps[0]))
