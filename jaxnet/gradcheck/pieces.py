"""Which smooth piece of a piecewise smooth function a point lies on.

A function's comparisons, maxima, orders, roundings and trip counts are its decisions: between two points with
the same decisions it is one smooth formula.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxnet.gradcheck.analytic import evaluate
from jaxnet.gradcheck.interpret import Values, alike, bind, called, control, stable, still_going, walk

_ROUNDINGS = {"floor", "ceil", "round", "sign"}
_BITS = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # of a type of so many bytes
_EXTREMA = {"max": jnp.greater_equal, "min": jnp.less_equal}
_ONE_OF_MANY = {"reduce_max", "reduce_min", "cummax", "cummin"}
_WINDOWS = {"reduce_window_max", "reduce_window_min"}


class Decided(NamedTuple):
    """Results and how they were come by."""

    values: Values
    piece: Array
    """A hash of all decisions, uint32."""
    trips: Array
    """The most that any while loop made, int32."""


def with_piece(jaxpr: ClosedJaxpr, consts: Values, args: Values, limit: Any) -> Decided:
    """Evaluate a jaxpr; NaN where a while loop is left after `limit` trips.

    limit: [2], the trips after which a while loop is left, and how many more it makes than it would where
    numbers decide when it ends: what iterates until it is good enough changes little by them.
    """
    start = [jnp.uint32(0), jnp.int32(0), jnp.asarray(limit, jnp.int32)]
    *values, piece, trips, _ = _run(ClosedJaxpr(jaxpr.jaxpr, consts), [*args, *start])
    return Decided([jnp.where(trips < limit[0], value, jnp.nan) for value in values], piece, trips)


def decided(eqn: Any, operands: Values, limit: Any) -> Decided | None:
    """Run an equation of control flow; None where it is another one. limit: as for `with_piece`."""
    start = [jnp.uint32(0), jnp.int32(0), limit]
    if eqn.primitive.name == "while":
        found, (piece, trips) = _while(eqn, operands, start)
        return Decided(found, piece, trips)
    inner = control(eqn, operands, _run, start)
    return None if inner is None else Decided(inner[0], inner[1][0], inner[1][1])


def _run(jaxpr: ClosedJaxpr, values: Values) -> Values:
    *args, piece, trips, limit = values
    state = [piece, trips]
    moving = _moving(jaxpr.jaxpr)

    def rule(eqn: Any, operands: Values) -> Values:
        if not any(not isinstance(atom, Literal) and atom in moving for atom in eqn.invars) and (
            called(eqn) is None
        ):
            return bind(eqn, operands)
        if eqn.primitive.name == "while":
            found, (state[0], state[1]) = _while(eqn, operands, [*state, limit])
            return found
        inner = control(eqn, operands, _run, [*state, limit])
        if inner is not None:
            found, (state[0], state[1], _) = inner
            return found
        found = evaluate(eqn, operands)
        for decision in decisions(eqn, operands, found):
            state[0] = _mix(state[0], decision)
        return found

    return [*walk(jaxpr.jaxpr, jaxpr.consts, args, rule), *state, limit]


def _while(eqn: Any, operands: Values, state: Values) -> tuple[Values, Values]:
    """Run a loop, counting its trips, which are a decision, and leaving it after `limit` of them."""
    a = eqn.params["cond_nconsts"]
    b = a + eqn.params["body_nconsts"]
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    piece, trips, limit = state
    shape = test.out_avals[0].shape
    extra = limit[1] if _decided_by_numbers(test.jaxpr) else jnp.int32(0)

    # As control flow in general, for what is handed from trip to trip; the counts are this loop's own.
    def lanes(carry: tuple[Any, ...]) -> Array:
        result: Array = _run(test, [*operands[:a], *carry[0], piece, trips, limit])[0] | (carry[4] < extra)
        return result

    def going(carry: tuple[Any, ...]) -> Array:
        result: Array = jnp.any(lanes(carry)) & (jnp.max(carry[3]) < limit[0])
        return result

    def again(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        values, piece, trips, count, over = carry
        *found, piece, trips, _ = _run(body, [*operands[a:b], *values, piece, trips, limit])
        going_on, found = lanes(carry), alike(found, values)
        if shape:
            found = still_going(going_on, found, values)
        begun = _run(test, [*operands[:a], *values, piece, trips, limit])[0]
        return found, piece, trips, count + going_on.astype(jnp.int32), over + (~begun).astype(jnp.int32)

    none = jnp.zeros(shape, jnp.int32)
    start = (stable(eqn, operands, b, len(operands)), piece, trips, none, none)
    found, piece, trips, count, _ = lax.while_loop(going, again, start)
    return found, [_mix(piece, count), jnp.maximum(trips, jnp.max(count))]


def _decided_by_numbers(test: Any) -> bool:
    """Return whether a loop's end is decided by floating-point numbers, not by a count alone."""
    return any(
        getattr(atom.aval, "dtype", None) is not None and jnp.issubdtype(atom.aval.dtype, jnp.floating)
        for eqn in test.eqns
        for atom in eqn.invars
        if not isinstance(atom, Literal)
    )


def _moving(jaxpr: Any) -> set[Any]:
    """Return the variables that depend on a jaxpr's arguments."""
    moving = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if any(not isinstance(atom, Literal) and atom in moving for atom in eqn.invars):
            moving.update(eqn.outvars)
    return moving


def decisions(eqn: Any, operands: Values, found: Values) -> Values:
    """Return what an equation decides: which operand is the larger, where to, how many."""
    name = eqn.primitive.name
    if not any(hasattr(a.aval, "dtype") and jnp.issubdtype(a.aval.dtype, jnp.floating) for a in eqn.invars):
        return []
    operands, found = ([v.real if jnp.iscomplexobj(v) else v for v in vs] for vs in (operands, found))
    if name in _EXTREMA:
        return [_EXTREMA[name](operands[0], operands[1])]
    if name == "abs":
        return [operands[0] >= 0]
    if name in _ROUNDINGS:
        return [lax.bitcast_convert_type(found[0], _BITS[found[0].dtype.itemsize])]
    if name == "clamp":
        return [operands[1] < operands[0], operands[1] > operands[2]]
    if name == "rem":
        return [jnp.trunc(operands[0] / operands[1]).astype(jnp.int32)]
    if name in _ONE_OF_MANY:
        return [operands[0] == jnp.expand_dims(found[0], eqn.params.get("axes", ()))]
    if name in _WINDOWS:
        # How many windows, each by a number of its own, take their value from where.
        numbers = jnp.arange(1, found[0].size + 1, dtype=found[0].dtype).reshape(found[0].shape)
        taken = jax.vjp(lambda x: eqn.primitive.bind(x, **eqn.params), operands[0])[1](numbers)[0]
        return [taken.astype(jnp.int32)]
    if name == "sort" and not any(jnp.issubdtype(v.dtype, jnp.integer) for v in found):
        axis = eqn.params["dimension"]
        places = lax.broadcasted_iota(jnp.int32, operands[0].shape, axis)
        options = {key: eqn.params[key] for key in ("dimension", "is_stable", "num_keys")}
        return [lax.sort([*operands, places], **options)[-1]]
    return [v for v in found if v.dtype == bool or jnp.issubdtype(v.dtype, jnp.integer)]


def _mix(piece: Array, decision: Any) -> Array:
    flat = jnp.ravel(decision).astype(jnp.uint32)
    weights = (np.arange(1, flat.size + 1, dtype=np.uint64) * 2_654_435_761 % 2**32).astype(np.uint32) | 1
    scrambled = (flat ^ (flat >> 15)) * jnp.asarray(weights)
    result: Array = piece * jnp.uint32(31) + jnp.sum(scrambled, dtype=jnp.uint32) + jnp.uint32(1)
    return result
