"""What rounding does to a computation: random ones after every operation.

D. S. Parker, Monte Carlo arithmetic, UCLA CSD-970002, 1997.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr

from jaxnet.gradcheck.analytic import evaluate
from jaxnet.gradcheck.interpret import Values, control, walk

SEEDS = range(1, 6)
# fmt: off
_EXACT = {
    "abs", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "complex", "concatenate", "conj", "copy",
    "convert_element_type", "cummax", "cummin", "dynamic_slice", "dynamic_update_slice", "expand_dims",
    "floor", "gather", "imag", "iota", "max", "min", "neg", "pad", "real", "reduce_max", "reduce_min",
    "reshape", "rev", "round", "scatter", "select_n", "sign", "slice", "sort", "split", "squeeze",
    "stop_gradient", "transpose",
}
# fmt: on
# Of numbers that float32 holds, where it holds the result too: so places in an array are computed.
_EXACT_WHERE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda a, b, found: (found - a == b) & (found - b == a),
    "sub": lambda a, b, found: (found + b == a) & (a - found == b),
    "mul": lambda a, b, found: True,
    "div": lambda a, b, found: found * b == a,
}


def rounded(
    jaxpr: ClosedJaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    seed: Any,
    size: Any,
    limit: Any,
    least: Any = 0.0,
) -> Values:
    """Return a jaxpr's results where every operation's is off by a random rounding of a relative size.

    size: at least 2^-52, or half of them vanish, 1 + 2^-53 being 1. What only moves numbers about is left
    alone, and so is what is exact in float32. limit: trips after which a while loop is left, which may never
    end because of them. least: smaller results are made 0.
    """
    count = iter(range(2**20))

    def run(inner: ClosedJaxpr, values: Any) -> Any:
        return walk(inner.jaxpr, inner.consts, values, rule)

    def rule(eqn: Any, values: Any) -> Any:
        inner = control(eqn, values, run, limit=limit)
        if inner is not None:
            return inner[0]
        found = evaluate(eqn, values)
        if eqn.primitive.name in _EXACT:
            return found
        moved = [_rounded(value, next(count), seed, size, least) for value in found]
        if (exact := _EXACT_WHERE.get(eqn.primitive.name)) and found[0].dtype == np.float64:
            terms = (*values, found[0])
            held = [jnp.asarray(term).astype(np.float32) == term for term in terms]
            moved = [jnp.where(held[0] & held[1] & held[2] & exact(*terms), found[0], moved[0])]
        return moved

    return walk(jaxpr.jaxpr, consts, args, rule)


def _rounded(value: Any, number: int, seed: Any, size: Any, least: Any) -> Any:
    kind = jnp.result_type(value)
    if jnp.issubdtype(kind, jnp.complexfloating):
        parts = (jnp.real(value), 2 * number), (jnp.imag(value), 2 * number + 1)
        return lax.complex(*(_rounded(part, n, seed, size, least) for part, n in parts))
    if not jnp.issubdtype(kind, jnp.floating):
        return value
    places = jnp.arange(np.size(value), dtype=jnp.uint32).reshape(np.shape(value))
    mixed = (places + jnp.uint32(number * 7919) + seed * jnp.uint32(40503)) * jnp.uint32(2654435761)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
    found = value * (1 + size * jnp.where((mixed >> 16) & 1, 1.0, -1.0))
    return jnp.where(jnp.abs(found) < least, 0.0, found)
