"""The operation in which a wrong derivative arises: every rule against its own operation's numerical slope.

One program runs the function and its reverse mode in the function's own types and keeps what each operation's
rule was given and gave. Another moves, in float64, the inputs of every operation whose rule is not beyond
question. Loops, branches and custom rules are operations like any other. Where one is at fault, the same walk
goes on inside of it, at the iteration in which the fault shows.
"""

import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from jaxnet.gradcheck.interpret import all_eqns, holds, still_going
from jaxnet.gradcheck.operations import (
    CUSTOM,
    FLAT,
    PLAINLY,
    Flat,
    Op,
    Trace,
    Values,
    doubled,
    finite,
    flatten,
    inexact,
    is_inexact,
    loop,
    loop_levels,
    pulled_back,
    traced,
    tried,
    type_of,
)
from jaxnet.gradcheck.problem import ordinary
from jaxnet.gradcheck.slopes import TRUSTED, compared, piece_of, slopes_of, verdict_of
from jaxnet.gradcheck.widen import frames

PyTree = Any
_UNKNOWN = "unknown"
_ITERATIONS, _COMPARED = 20_000, 300  # of a loop: that are gone through one by one, and that are compared


class Origin(NamedTuple):
    """An operation in which a derivative goes wrong."""

    operation: str
    """The primitive's name."""
    name: str | None
    """Of the user's function that carries the rule."""
    where: str
    """"file.py:12", in the user's code."""
    function: str
    """The user's function in which that line is."""
    kind: str
    """"wrong rule", "not finite", "stopped" or "no derivative"."""
    detail: str


class Located(NamedTuple):
    """What a walk through a function's operations found."""

    origins: tuple[Origin, ...]
    checked: int
    """Operations that were looked at and are right."""
    notes: tuple[str, ...]


def locate(
    f: Callable[..., PyTree], *args: PyTree, argnums: int | Sequence[int] = 0, cotangent: PyTree | None = None
) -> tuple[Origin, ...]:
    """Return the operations in which the derivative of f goes wrong, in the order in which f runs them.

    Each operation's rule, that of a `jax.custom_vjp` or `jax.custom_jvp` too, is compared with the
    operation's own numerical slope at the cotangent that arrives there: for a gradient that is NaN, that
    `check_gradients` finds wrong, or that jax refuses to compute.

    f: of arrays and pytrees, as `jax.grad` takes it, without an `if` on the values of what is differentiated.
    argnums: the arguments that are differentiated; of their leaves those of floating point.
    cotangent: of f's value, with its structure; by default 1 for a scalar and random otherwise.

    Raises:
        ValueError: if nothing in these arguments is of floating point.

    >>> import jax, jax.numpy as jnp
    >>> def f(x):
    ...     return jnp.where(x > 0, jnp.sqrt(x), 0.0).sum()
    >>> [origin] = locate(f, jnp.array([0.0, 4.0]))
    >>> origin.operation, origin.kind
    ('sqrt', 'not finite')
    """
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    if not args or not all(-len(args) <= n < len(args) for n in numbers):
        raise ValueError(f"argnums must be in 0..{len(args) - 1} for {len(args)} arguments, got {argnums}")
    chosen = {n % len(args) for n in numbers}
    leaves, tree = jax.tree.flatten(args)
    leaves = [jnp.asarray(v) if isinstance(v, np.ndarray | np.generic) else v for v in leaves]
    marks = [n in chosen for n, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
    floating = [isinstance(v, float | complex | Array) and is_inexact(jnp.result_type(v)) for v in leaves]
    moving = [k for k, both in enumerate(zip(marks, floating, strict=True)) if all(both)]
    if not moving:
        raise ValueError(f"args must have a floating-point number in argnums, got none in {argnums}")

    def of_moving(*moved: Any) -> Values:
        full = list(leaves)
        for k, value in zip(moving, moved, strict=True):
            full[k] = value
        return jax.tree.leaves(f(*jax.tree.unflatten(tree, full)))

    with ordinary():
        values = [jnp.asarray(leaves[k]) for k in moving]
        closed, given = jax.make_jaxpr(of_moving)(*values), jax.tree.leaves(cotangent)
        if not given:
            rng, scalar = np.random.default_rng(0), [a.shape for a in closed.out_avals] == [()]
            some = np.r_[-12:-3, 4:13] / 8
            given = [1.0 if scalar else rng.choice(some, aval.shape) for aval in closed.out_avals]
        pairs = zip(given, closed.out_avals, strict=True)
        cotangents = [jnp.asarray(g, a.dtype) if inexact(a) else None for g, a in pairs]
        return find_origins(closed, values, cotangents).origins


def find_origins(
    closed_jaxpr: ClosedJaxpr,
    values: Sequence[Any],
    cotangents: Sequence[Any],
    *,
    rng_seed: int = 0,
    is_wrong: bool = False,
) -> Located:
    """Return the operations of a traced function in which its derivative goes wrong.

    closed_jaxpr: of floating-point inputs only, traced in the function's own types. values: of its inputs.
    cotangents: of its outputs, None for one that is not of floating point. is_wrong: its derivative is known
    to be wrong, so that loops that iterate until it is good enough get less of an allowance.
    """
    if any("Ref" in type(v.aval).__name__ for e in all_eqns(closed_jaxpr.jaxpr) for v in e.outvars):
        return Located((), 0, ("a function with mutable arrays is not looked into",))
    levels = [PLAINLY] * len(values)
    for loose in (1.0, 0.05) if is_wrong else (1.0,):
        place = _Place((), (), rng_seed, loose)
        origins, checked, notes = _examine(closed_jaxpr, list(values), list(cotangents), levels, place)
        if origins or not holds(closed_jaxpr.jaxpr, "while"):
            break
    first = {origin[:5]: origin for origin in reversed(origins)}  # of what a line does more than once
    return Located(tuple(reversed(first.values())), checked, tuple(dict.fromkeys(notes)))


class _Place(NamedTuple):
    """Where in the function a walk is."""

    calls: tuple[JaxprEqn, ...]
    """What it is inside of, outermost first."""
    iterations: tuple[str, ...]
    seed: int
    loose: float
    """See `slopes`."""


def _examine(
    closed: ClosedJaxpr, ins: Values, cotangents: Values, levels: Sequence[int], place: _Place
) -> Located:
    """Return what is wrong in a function, or in the part of it that is inside of something."""
    flat = flatten(closed, levels)
    trace = traced(flat, ins, cotangents, {n for n, op in enumerate(flat.ops) if _matters(op)})
    results = [trace.values[s] for s, a in zip(flat.outs, closed.out_avals, strict=True) if inexact(a)]
    broken = not finite([*trace.gradient, *results])
    if broken:
        trace = traced(flat, ins, cotangents, set(range(len(flat.ops))))
    suspects, checked = compared(flat, trace, place.seed, place.loose)
    suspects |= {n: ("stopped", detail) for n, detail in _stopped(flat, trace).items()}
    if broken:
        suspects |= {
            n: ("not finite", detail) for n, detail in _not_finite(flat, trace, finite(results)).items()
        }
    if trace.failures and not _has_derivative(closed, ins, cotangents, levels):
        suspects |= {n: ("no derivative", detail) for n, detail in trace.failures.items()}
    origins, notes = list[Origin](), _notes(flat, trace, place)
    for n, (kind, detail) in sorted(suspects.items()):
        op = flat.ops[n]
        within = _inside(op, n, flat, trace, place) or Located((), 0, ())
        # A loop's or a branch's rule is jax's own: it is only as wrong as what is inside.
        own = kind and not (op.name in ("cond", "scan", "while") and kind in ("wrong rule", "stopped"))
        if (own and not within.origins) or (kind == "no derivative" and op.name == "while"):
            origins.append(_origin(op, place, kind, detail))
        origins += within.origins
        checked, notes = checked + within.checked, notes + within.notes
    return Located(tuple(origins), checked, notes)


def _has_derivative(closed: ClosedJaxpr, ins: Values, cotangents: Values, levels: Sequence[int]) -> bool:
    """Return whether jax differentiates the whole, though not each operation by itself."""
    wanted = [k for k, level in enumerate(levels) if level and inexact(closed.in_avals[k])]
    given = {k: g for k, g in enumerate(cotangents) if g is not None}
    return tried(jax.eval_shape, lambda: pulled_back(jaxpr_as_fun(closed), ins, wanted, given))[1] is None


# What is at fault otherwise, and what is only to be noted.


def _stopped(flat: Flat, trace: Trace) -> dict[int, str]:
    """Return each stop_gradient without which the gradient would be another.

    Where a function does not depend on what is stopped, as in a softmax that subtracts its maximum, the
    cotangents that arrive sum up to zero but for rounding.
    """
    found = {}
    for n, op in enumerate(flat.ops):
        if op.name != "stop_gradient" or not flat.plainly_from(op) or 0 not in trace.cts[n]:
            continue
        ct, near = trace.cts[n][0], 100 * float(jnp.finfo(type_of(op, 0)).eps)
        after = [g for m in _after(flat, op) for g in trace.cts[m].values()]
        if np.abs(ct).sum() <= near * max((np.abs(g).sum() for g in after), default=0):
            continue  # without a second program
        (shaken, _), (_, opened) = trace.again(True, -1), trace.again(False, n)
        pairs = list(zip(opened, trace.gradient, strict=True))
        most = max((np.abs(v[np.isfinite(v)]).max(initial=0) for pair in pairs for v in pair), default=0)
        same = all((np.abs(a - b) <= near * most).all() for a, b in pairs)
        if np.abs(ct).sum() > np.abs(ct - shaken[n][0]).sum() and not same:
            found[n] = f"slope 0 by its rule, {ct.ravel()[np.abs(ct).argmax()]:.3g} numerically"
    return found


def _after(flat: Flat, op: Op) -> list[int]:
    """Return the operations that depend on an operation."""
    reached, found = set(op.outs), list[int]()
    for n, other in enumerate(flat.ops):
        if reached.intersection(other.ins):
            reached.update(other.outs)
            found.append(n)
    return found


def _not_finite(flat: Flat, trace: Trace, whole: bool) -> dict[int, str]:
    """Return each operation that makes of finite numbers, forwards or backwards, such as are not.

    whole: whether the function's results are finite. Where they are not, an operation may have made it so
    though no cotangent arrives there.
    """
    found: dict[bool, dict[int, str]] = {True: {}, False: {}}
    unseen = dict[int, str]()
    for n, op in enumerate(flat.ops):
        rules, cts = trace.rules[n], trace.cts[n]
        if n in trace.failures or not flat.plainly(op) or not cts:
            continue
        ins = finite(trace.values[s] for s in op.ins if flat.levels[s] == PLAINLY)
        values = {k: doubled(trace.values[op.outs[k]]) for k in cts}
        back = finite(cts.values()) and not finite(rules.values())
        if back or (ins and any((~np.isfinite(values[k]) & (g != 0)).any() for k, g in cts.items())):
            found[ins][n] = _described(op, flat, trace, rules, cts, values)
        elif ins and not whole and not finite(values.values()):
            unseen[n] = _described(op, flat, trace, rules, cts, values)
    return found[True] or unseen or found[False]


def _described(op: Op, flat: Flat, trace: Trace, rules: Any, cts: Any, values: Any) -> str:
    """Return what goes into an operation and comes out that is not finite."""
    gave = next((g for g in rules.values() if not finite([g])), None)
    value = next((v for v in values.values() if not finite([v])), None)
    bad: Any = value if gave is None else gave
    at = int(np.argmin(np.isfinite(bad).ravel()))

    def element(v: np.ndarray) -> Any:
        return v.ravel()[at if v.shape == bad.shape else np.abs(v).argmax()] if v.size else 0.0

    ct = element(next(iter(cts.values())))
    slots = [s for s, atom in zip(op.ins, op.eqn.invars, strict=True) if inexact(atom.aval)]
    points = [doubled(trace.values[s]) for s in slots]
    here = ", ".join(f"{element(p):.4g}" for p in points if p.shape == bad.shape or p.size == 1)
    text = op.name + (f" at {here}" if here else "")
    if gave is not None:
        text = f"cotangent {ct:.3g} in, {element(gave):.3g} out: {text}"
    if value is not None:
        text += f" is {element(value):.3g} in {type_of(op, 0)}"
    if gave is not None and ct == 0 and any(flat.ops[n].name == "select_n" for n in _after(flat, op)):
        text += "; the where() after it hides the value, not the derivative: make the argument of "
        text += f"{op.name} harmless with a second where() before it"
    return text.replace("nan", "NaN")


def _notes(flat: Flat, trace: Trace, place: _Place) -> tuple[str, ...]:
    """Return a line for each operation that is flat almost everywhere and at which a cotangent ends."""
    makers = {s: op for op in flat.ops for s in op.outs}

    def steps(op: Op) -> Iterator[Op]:
        """Yield the operations that make the integers, of what is not, that an operation comes from."""
        if flat.plainly_from(op):
            yield op
        else:
            for s in op.ins:
                yield from steps(makers[s]) if flat.levels[s] and s in makers else ()

    found = []
    for n, op in enumerate(flat.ops):
        ends = (op.name in FLAT and flat.plainly_from(op)) or _from_integer(op)
        if ends and any(map(np.any, trace.cts[n].values())):
            for each in steps(op):
                where, function = _where(each.eqn, (*place.calls, *each.calls))
                found.append(f"no gradient flows through {each.name}, {where} in {function}: it is flat")
    return tuple(found)


def _matters(op: Op) -> bool:
    """Return whether an operation is compared, stops a cotangent, or may be noted."""
    return op.name not in TRUSTED - FLAT - {"stop_gradient"} or _from_integer(op)


def _from_integer(op: Op) -> bool:
    return op.name == "convert_element_type" and not inexact(op.eqn.invars[0].aval)


def _origin(op: Op, place: _Place, kind: str, detail: str) -> Origin:
    """Return an operation that is at fault, by its line."""
    info = getattr(getattr(_primal(op.eqn), "jaxpr", None), "debug_info", None)
    name, _, made = ("" if info is None else str(info.func_src_info)).partition(" at ")
    where, function = _where(op.eqn, (*place.calls, *op.calls))
    if where == _UNKNOWN and made:  # nobody's line called it, as where it is f itself
        where, function = os.path.basename(made), name
    detail += "".join(f", in {iteration}" for iteration in place.iterations)
    return Origin(op.name, name or None, where, function, kind, detail)


def _primal(eqn: JaxprEqn) -> Any:
    """Return the function that a custom rule is of, None for any other operation."""
    inner = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return inner if eqn.primitive.name in CUSTOM else None


_HERE, _STANDARD = os.path.dirname(os.path.abspath(__file__)), sysconfig.get_paths()["stdlib"]


def _where(eqn: JaxprEqn, calls: Sequence[JaxprEqn]) -> tuple[str, str]:
    """Return the line of the user's code that made an operation, and the function in which it is."""
    outside = [f for e in (eqn, *reversed(calls)) for f in frames(e) if not f.file_name.startswith(_HERE)]
    mine = [f for f in outside if not f.file_name.startswith(_STANDARD) and "-packages" not in f.file_name]
    for frame in mine or outside:
        function = frame.function_name.split("<locals>.")[-1]
        return f"{os.path.basename(frame.file_name)}:{frame.line_num}", function
    return _UNKNOWN, _UNKNOWN


# Inside of an operation.


def _inside(op: Op, n: int, flat: Flat, trace: Trace, place: _Place) -> Located | None:
    """Return what is wrong inside of a loop, a branch, or a custom rule that repeats its function's own."""
    primal, rules = _primal(op.eqn), trace.rules[n]
    if op.name not in ("cond", "scan", "while") and (primal is None or n in trace.failures):
        return None
    ins, levels = [trace.values[s] for s in op.ins], [flat.levels[s] for s in op.ins]
    cts = {k: jnp.asarray(g, type_of(op, k)) for k, g in trace.cts[n].items()}
    given = [cts.get(k) for k in range(len(op.outs))]
    within = place._replace(calls=(*place.calls, *op.calls, op.eqn))
    if op.name == "cond":
        return _examine(op.eqn.params["branches"][int(ins[0])], ins[1:], given, levels[1:], within)
    if op.name in ("scan", "while"):
        return _iterations(op.eqn, ins, cts, levels, within)
    pulled, error = tried(pulled_back, jaxpr_as_fun(primal), ins, list(rules), cts)
    if error is not None:  # no way to compare
        return None
    plain = list(map(doubled, pulled))
    pairs = [
        (g, r, np.abs(r[np.isfinite(r)]).max(initial=0)) for g, r in zip(plain, rules.values(), strict=True)
    ]
    same = all(np.allclose(g, r, 1e-3, 1e-3 * most, equal_nan=True) for g, r, most in pairs)
    return _examine(primal, ins, given, levels, within) if same else None


def _iterations(
    eqn: JaxprEqn, ins: Values, cts: dict[int, Any], levels: Sequence[int], place: _Place
) -> Located:
    """Return what is wrong inside of a loop, in the first iteration in which something is."""
    body, consts, carry, xs = loop(eqn, ins)
    n, function, inner = len(carry), jaxpr_as_fun(body), loop_levels(eqn, levels)[0]
    wanted = [k for k, level in enumerate(inner) if level and inexact(body.in_avals[k])]
    flowing = [k for k in range(n) if len(consts) + k in wanted]
    order = list(range(eqn.params.get("length", _ITERATIONS)))[:: -1 if eqn.params.get("reverse") else 1]
    run, pull = jax.jit(function), jax.jit(lambda ins, cts: pulled_back(function, ins, wanted, cts))
    test = jax.jit(jaxpr_as_fun(eqn.params["cond_jaxpr"])) if eqn.primitive.name == "while" else None
    states, lanes = list[Values](), list[Any]()  # lanes: of a vmapped loop, which have not ended
    for i in order[:_ITERATIONS]:
        lanes.append(test(*ins[: eqn.params["cond_nconsts"]], *carry)[0] if test else np.True_)
        if not lanes[-1].any():
            break
        states.append([*consts, *carry, *(x[i] for x in xs)])
        new = list(run(*states[-1])[:n])
        carry = still_going(lanes[-1], new, carry) if lanes[-1].ndim else new

    if not states or len(states) == _ITERATIONS:
        too_many = (
            f"{eqn.primitive.name}, {_where(eqn, place.calls)[0]}, has too many iterations to look into"
        )
        return Located((), 0, (too_many,) if states else ())

    def look(at: int) -> Located:
        iteration = f"iteration {at} of {eqn.primitive.name}"
        within = place._replace(iterations=(*place.iterations, iteration))
        return _examine(body, states[at], list(map(given[at].get, range(len(body.out_avals)))), inner, within)

    ct = {k: cts.get(k, jnp.zeros_like(carry[k])) for k in flowing}
    given, rules = dict[int, dict[int, Any]](), dict[int, Values]()
    for at in reversed(range(len(states))):
        given[at] = ct | {k: g[order[at]] for k, g in cts.items() if k >= n}
        rules[at], error = tried(pull, states[at], given[at])
        if error is not None:  # `look` finds the operation that raises, and says what
            return look(int(at))
        if finite(given[at].values()) and not finite(rules[at]):
            return look(int(at))
        ct = {k: rules[at][wanted.index(len(consts) + k)] for k in flowing}
        if lanes[at].ndim:
            passed = still_going(lanes[at], list(ct.values()), [given[at][k] for k in ct])
            ct = dict(zip(ct, passed, strict=True))
    piece = piece_of(function, body.in_avals, wanted, list(given[0]))
    slopes, unclear = slopes_of([piece]), list[int]()
    sizes = [max((float(jnp.abs(g).max(initial=0)) for g in given[at].values()), default=0) for at in given]
    for at in np.unique(np.linspace(0, len(states) - 1, _COMPARED).astype(int)):
        if sizes[len(states) - 1 - at] < 1e-6 * max(sizes):
            continue  # what arrives there is too little to matter
        if not finite([*given[at].values(), *(states[at][k] for k in wanted)]):
            return look(int(at))
        piece = piece.at(states[at], list(given[at].values()), rules[at], [[place.seed, k] for k in wanted])
        try:
            (found,) = slopes([piece])
        except jax.errors.JaxRuntimeError:  # of a callback
            found = None
        verdict = found and verdict_of(piece, found)
        if verdict and verdict.wrong.any():
            return look(int(at))
        unclear += [] if verdict and verdict.clear else [int(at)]
    return look(unclear[0]) if unclear else Located((), len(body.jaxpr.eqns), ())
