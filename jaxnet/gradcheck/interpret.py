"""The walk through a jaxpr, with a rule for each equation, and control flow rebuilt around other values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal

Values = list[Any]
Rule = Callable[[Any, Values], Sequence[Any]]  # of an equation and its operands: its results
Run = Callable[[ClosedJaxpr, Values], Values]  # of an inner jaxpr and its arguments

# fmt: off
_CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "eval_jaxpr", "jit", "pjit", "remat", "remat2",
}
# fmt: on


def walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rule: Rule) -> Values:
    """Return a jaxpr's results, each equation's by `rule`."""
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return literal(atom) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, rule(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def literal(atom: Any) -> np.ndarray:
    """Return a literal as an array of its own type."""
    return np.asarray(atom.val, getattr(atom.aval, "dtype", None))


def called(eqn: Any) -> ClosedJaxpr | None:
    """Return what an equation calls with its own operands, whatever rule of differentiation it carries."""
    if eqn.primitive.name == "call_hi_primitive":  # since jax 0.12 a custom_root, for one
        return _expanded(eqn.params["_prim"])
    if eqn.primitive.name not in _CALLS:
        return None
    inner = next((eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params), None)
    return inner if inner is None or hasattr(inner, "consts") else ClosedJaxpr(inner, [])


@lru_cache(64)
def _expanded(prim: Any) -> ClosedJaxpr:
    """Return what a primitive of Python's own computes, in its own types."""

    def expand(*args: Any) -> list[Any]:
        return jax.tree.leaves(prim.expand(*jax.tree.unflatten(prim.in_tree, args)))

    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in prim.in_avals_flat]
    with jax.enable_x64(any(aval.dtype.itemsize > 4 for aval in avals)):
        return jax.make_jaxpr(expand)(*avals)


def name_of(eqn: Any) -> str:
    """Return the name of an equation's operation."""
    prim = eqn.params.get("_prim")
    return str(eqn.primitive.name) if prim is None else type(prim).__name__


def scanned(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many of a scan's operands are constants, and how many the first carry."""
    if "ft_in" in params:  # since jax 0.11
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def bind(eqn: Any, values: Sequence[Any], **changes: Any) -> Values:
    """Return an equation's results for other operands, with some of its parameters changed."""
    params = eqn.params | changes
    bound = eqn.primitive.get_bind_params(params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before jax 0.10
    found = eqn.primitive.bind(*functions, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def inside(eqn: Any) -> list[ClosedJaxpr]:
    """Return every jaxpr among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "eqns"):
                found.append(ClosedJaxpr(part, [None] * len(part.constvars)))
            elif hasattr(part, "jaxpr") and hasattr(part, "consts"):
                found.append(part)
    return found


def all_eqns(jaxpr: Any) -> Iterator[Any]:
    """Yield all equations, also those inside of others."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in inside(eqn):
            yield from all_eqns(inner.jaxpr)


def holds(jaxpr: Any, part: str) -> bool:
    """Return whether any operation in a jaxpr, or inside of one, has a name with such a part."""
    return any(part in eqn.primitive.name for eqn in all_eqns(jaxpr))


def loops_in_branch(jaxpr: Any) -> bool:
    """Return whether a branch has a while loop, which may never end where that branch is not taken."""
    found = [(eqn.primitive.name, inner.jaxpr) for eqn in jaxpr.eqns for inner in inside(eqn)]
    return any((name == "cond" and holds(inner, "while")) or loops_in_branch(inner) for name, inner in found)


def control(
    eqn: Any, values: Values, run: Run, state: Values | None = None, limit: Any = None
) -> tuple[Values, Values] | None:
    """Run an equation of control flow, its bodies by `run`; None where it is another equation.

    state: what is handed from body to body beside the operands: run takes it as its last arguments and
    returns it as its last results. limit: trips after which a while loop is left, if it is to be.
    """
    name, extra, params = eqn.primitive.name, list(state or []), eqn.params
    held = len(extra)

    def split(found: Values) -> tuple[Values, Values]:
        return found[: len(found) - held], found[len(found) - held :]

    if (inner := called(eqn)) is not None:
        return split(run(inner, [*values, *extra]))
    if name == "cond":
        index, *operands = values
        stepped = has_step(eqn, values)

        def taken(branch: ClosedJaxpr) -> Callable[..., Values]:
            return lambda *args: [_complex(v) if stepped else v for v in run(branch, list(args))]

        branches = [taken(branch) for branch in params["branches"]]
        return split(lax.switch(index.astype(jnp.int32), branches, *operands, *extra))
    if name == "custom_linear_solve":
        lengths, solve = params["const_lengths"], params["jaxprs"].solve
        start = lengths.matvec + lengths.vecmat
        b = values[sum(lengths) :]
        return split(run(solve, [*values[start : start + lengths.solve], *b, *extra]))
    if name == "scan":
        first, n = scanned(params)
        carried = first + n
        consts, body = values[:first], params["jaxpr"]

        def step(carry: Values, x: Values) -> tuple[Values, Values]:
            found, after = split(run(body, [*consts, *carry[:n], *x, *carry[n:]]))
            return [*alike(found[:n], carry[:n]), *after], list(found[n:])

        start = [*stable(eqn, values, first, carried), *extra]
        carry, ys = lax.scan(
            step,
            start,
            values[carried:],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry[:n], *ys], carry[n:]
    if name == "while":
        a = params["cond_nconsts"]
        b = a + params["body_nconsts"]
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        n = len(values) - b

        def going(counted: tuple[Values, Any]) -> Any:
            carry, trips = counted
            goes_on = jnp.any(run(test, [*values[:a], *carry])[0])
            return goes_on if limit is None else goes_on & (trips < limit)

        def again(counted: tuple[Values, Any]) -> tuple[Values, Any]:
            carry, trips = counted
            found, after = split(run(body, [*values[a:b], *carry]))
            found = alike(found, carry[:n])
            if test.out_avals[0].shape:
                found = still_going(run(test, [*values[:a], *carry])[0], found, carry[:n])
            return [*found, *after], trips + 1

        start = [*stable(eqn, values, b, len(values)), *extra], jnp.int32(0)
        carry, _ = lax.while_loop(going, again, start)
        return carry[:n], carry[n:]
    return None


def still_going(lanes: Any, found: Values, carry: Values) -> Values:
    """Return a vmapped loop's next carry: what the lanes that go on have found, what the others had."""
    return [
        jnp.where(jnp.reshape(lanes, lanes.shape + (1,) * (jnp.ndim(old) - lanes.ndim)), new, old)
        for new, old in zip(found, carry, strict=True)
    ]


def has_step(eqn: Any, values: Sequence[Any]) -> bool:
    """Return whether a complex step is under way: whether a real operand has become complex."""
    return any(
        jnp.iscomplexobj(value) and not jnp.issubdtype(atom.aval.dtype, jnp.complexfloating)
        for value, atom in zip(values, eqn.invars, strict=True)
    )


def _complex(value: Any) -> Any:
    kind = jnp.result_type(value)
    real = jnp.issubdtype(kind, jnp.floating)
    return jnp.asarray(value).astype(jnp.result_type(kind, jnp.complex64)) if real else value


def stable(eqn: Any, values: Values, start: int, stop: int) -> Values:
    """Return a loop's first carry in the types that it has later: complex where any operand has become it."""
    step = has_step(eqn, values)
    carry = [_complex(value) if step else value for value in values[start:stop]]
    return [value if isinstance(value, Array) else jnp.asarray(value) for value in carry]


def alike(found: Values, carry: Values) -> Values:
    """Return a body's results in the types of the carry."""
    return [
        new if jnp.result_type(new) == jnp.result_type(old) else jnp.asarray(new).astype(jnp.result_type(old))
        for new, old in zip(found, carry, strict=True)
    ]
