"""What a function of one number changes by, from what the number changes by, without cancellation.

`exp(a + c) - exp(a)` is lost in rounding where c is small; `exp(a) · expm1(c)` is the same to all its digits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp


class Move(NamedTuple):
    """An operation at a point and beside it."""

    a: Any
    """Its argument at the point."""
    b: Any
    """Its argument beside it."""
    c: Any
    """b - a, better known than by that difference."""
    f: Any
    """Its value at the point."""
    g: Any
    """Its value beside it."""


def _power(m: Move, exponent: Any) -> Any:
    near = (m.a != 0) & (jnp.abs(m.c) < jnp.abs(m.a) / 2)
    return jnp.where(near, m.f * jnp.expm1(exponent * jnp.log1p(m.c / jnp.where(near, m.a, 1))), m.g - m.f)


def _tanh(m: Move) -> Any:
    # As sinh(c) / (cosh a · cosh b), which does not overflow so.
    e = jnp.exp(-jnp.abs(m.a) - jnp.abs(m.b))
    return 4 * jnp.sinh(m.c) * e / ((1 + jnp.exp(-2 * jnp.abs(m.a))) * (1 + jnp.exp(-2 * jnp.abs(m.b))))


def _logistic(m: Move) -> Any:
    return -m.g / (1 + jnp.exp(m.a)) * jnp.expm1(-m.c)


DIFFERENCES: dict[str, Callable[[Move], Any]] = {
    "cos": lambda m: -2 * jnp.sin(m.a + m.c / 2) * jnp.sin(m.c / 2),
    "cosh": lambda m: 2 * jnp.sinh(m.a + m.c / 2) * jnp.sinh(m.c / 2),
    "exp": lambda m: m.f * jnp.expm1(m.c),
    "expm1": lambda m: jnp.exp(m.a) * jnp.expm1(m.c),
    "log": lambda m: jnp.log1p(m.c / m.a),
    "log1p": lambda m: jnp.log1p(m.c / (1 + m.a)),
    "logistic": _logistic,
    "rsqrt": lambda m: -m.c * m.f * m.g / (jnp.sqrt(m.a) + jnp.sqrt(m.b)),
    "sin": lambda m: 2 * jnp.cos(m.a + m.c / 2) * jnp.sin(m.c / 2),
    "sinh": lambda m: 2 * jnp.cosh(m.a + m.c / 2) * jnp.sinh(m.c / 2),
    "sqrt": lambda m: m.c / (m.f + m.g),
    "tan": lambda m: jnp.sin(m.c) / (jnp.cos(m.a) * jnp.cos(m.b)),
    "tanh": _tanh,
}


def difference(name: str, params: dict[str, Any], moves: list[Move], moved: list[bool]) -> Any | None:
    """Return what an operation changes by, or None where there is no better way than to subtract.

    moves: of each operand. Not finite where it does not hold.
    """
    first = moves[0]
    if name in DIFFERENCES:
        return DIFFERENCES[name](first)
    if name == "integer_pow":
        return _power(first, params["y"])
    if name == "pow" and not moved[1]:
        return _power(first, moves[1].a)
    if name == "abs":
        return jnp.where(first.a * first.b > 0, jnp.sign(first.a) * first.c, first.g - first.f)
    if name in ("max", "min"):
        larger = jnp.greater_equal if name == "max" else jnp.less_equal
        second = moves[1]
        before, after = larger(first.a, second.a), larger(first.b, second.b)
        return jnp.where(before == after, jnp.where(before, first.c, second.c), first.g - first.f)
    return None
