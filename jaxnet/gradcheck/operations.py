"""A function without calls, and what its reverse mode gives to each operation's rule and gets from it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet._compiler import compiler_options
from jaxnet.gradcheck.interpret import bind, literal, name_of, scanned

Values = list[Any]
Slot = int  # a value of a function without calls

# How a value depends on the inputs: not, behind a stop_gradient or a step, or plainly.
_NOT, _STOPPED, PLAINLY = range(3)
_FEW = 10**6  # numbers that are computed sooner than a program is optimized

# fmt: off
CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_vmap_call", "eval_jaxpr", "jit", "pjit", "remat",
    "remat2",
}
CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
FLAT = {"argmax", "argmin", "ceil", "floor", "round", "sign"}
# fmt: on


class Op(NamedTuple):
    """An operation: its equation, the slots of what it takes and gives, and the calls it is inside of."""

    eqn: JaxprEqn
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    calls: tuple[JaxprEqn, ...]

    @property
    def name(self) -> str:
        """Return the primitive's name."""
        return name_of(self.eqn)


class Flat(NamedTuple):
    """A function without calls: its operations in order, its values by slot."""

    ops: tuple[Op, ...]
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    levels: list[int]
    """By slot: how it depends on the inputs."""
    known: dict[Slot, Any]
    """Literals and constants."""

    def wanted(self, op: Op) -> list[int]:
        """Return the places of an operation's inputs that a cotangent goes to.

        Of a solve also the right-hand side, if it is fixed: its rule is compared there.
        """
        solves = op.name == "custom_linear_solve" and any(self.levels[s] for s in op.ins)
        first = sum(op.eqn.params["const_lengths"]) if solves else len(op.ins)
        pairs = enumerate(zip(op.ins, op.eqn.invars, strict=True))
        return [k for k, (s, atom) in pairs if (self.levels[s] or k >= first) and inexact(atom.aval)]

    def plainly(self, op: Op) -> bool:
        """Return whether jax differentiates an operation at all."""
        return any(self.levels[s] == PLAINLY for s in op.outs or op.ins)

    def plainly_from(self, op: Op) -> bool:
        """Return whether jax would differentiate an operation that has no derivative by design."""
        return any(self.levels[s] == PLAINLY for s in op.ins)


def flatten(closed: ClosedJaxpr, levels: Sequence[int]) -> Flat:
    """Return a function without calls; levels: of its inputs."""
    known, found, ops = dict[Slot, Any](), list(levels), list[Op]()

    def slot(level: int, *value: Any) -> Slot:
        found.append(level)
        known.update({len(found) - 1: v for v in value})
        return len(found) - 1

    def walk(inner: Any, ins: Sequence[Slot], calls: tuple[JaxprEqn, ...]) -> tuple[Slot, ...]:
        jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        scope = dict(zip(jaxpr.invars, ins, strict=True))
        scope |= {v: slot(_NOT, jnp.asarray(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Slot:
            return slot(_NOT, literal(atom)) if isinstance(atom, Literal) else scope[atom]

        for eqn in jaxpr.eqns:
            slots = tuple(map(read, eqn.invars))
            if eqn.primitive.name in CALLS:
                called = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "call") if k in eqn.params)
                outs = walk(called, slots, (*calls, eqn))
            else:
                outs = tuple(map(slot, _levels(eqn, [found[s] for s in slots])))
                ops.append(Op(eqn, slots, outs, calls))
            scope.update(zip(eqn.outvars, outs, strict=True))
        return tuple(map(read, jaxpr.outvars))

    ins = tuple(range(len(levels)))
    outs = walk(closed, ins, ())
    return Flat(tuple(ops), ins, outs, found, known)


def _levels(eqn: JaxprEqn, levels: Sequence[int]) -> list[int]:
    """Return how an operation's results depend on the inputs, given how its operands do."""
    name, level = eqn.primitive.name, max(levels, default=_NOT)
    found = [min(level, _STOPPED) if name in {"stop_gradient", *FLAT} else level] * len(eqn.outvars)
    if level and name == "cond":
        branches = [flatten(branch, levels[1:]) for branch in eqn.params["branches"]]
        found = [max(each) for each in zip(*([b.levels[s] for s in b.outs] for b in branches), strict=True)]
    elif level and name in ("scan", "while"):
        found = loop_levels(eqn, levels)[1]
    # An integer that depends on the inputs is a step function of them.
    return [at if inexact(v.aval) else min(at, _STOPPED) for at, v in zip(found, eqn.outvars, strict=True)]


def loop_levels(eqn: JaxprEqn, levels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how the operands of a loop's body, and the loop's results, depend on the inputs."""
    body, consts, carry, xs = loop(eqn, list(levels))
    while True:
        flat = flatten(body, [*consts, *carry, *xs])
        outs = [flat.levels[s] for s in flat.outs]
        if (new := [max(pair) for pair in zip(carry, outs, strict=False)]) == carry:
            return [*consts, *carry, *xs], [*carry, *outs[len(carry) :]]
        carry = new


def loop(eqn: JaxprEqn, ins: Values) -> tuple[ClosedJaxpr, Values, Values, Values]:
    """Return a loop's body, and of the operands its constants, the first carry, and what is scanned over."""
    if eqn.primitive.name == "scan":
        first, carried = scanned(eqn.params)
        last = first + carried
        return eqn.params["jaxpr"], ins[:first], ins[first:last], ins[last:]
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    return eqn.params["body_jaxpr"], ins[first:last], ins[last:], []


def is_inexact(dtype: Any) -> bool:
    """Return whether a type is of real or complex numbers."""
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def inexact(aval: Any) -> bool:
    """Return whether an abstract value is of real or complex numbers."""
    return hasattr(aval, "dtype") and is_inexact(aval.dtype)


def doubled(value: Any) -> Any:
    """Return inexact numbers in NumPy's double precision, anything else as it is."""
    dtype = jnp.result_type(value)
    if not is_inexact(dtype):
        return value
    kind = np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
    return np.asarray(value).astype(kind)


def type_of(op: "Op", k: int) -> Any:
    """Return the type of an operation's result."""
    aval: Any = op.eqn.outvars[k].aval
    return aval.dtype


def finite(values: Any) -> bool:
    """Return whether all numbers of some arrays are finite."""
    return all(bool(np.isfinite(doubled(v)).all()) for v in values)


class Trace(NamedTuple):
    """What the first program found; of each operation by the place of the result, or of the input."""

    values: dict[Slot, Any]
    cts: list[dict[int, np.ndarray]]
    rules: list[dict[int, np.ndarray]]
    failures: dict[int, str]
    """By operation: why it has no derivative."""
    reached: set[int]
    """The operations at which a cotangent arrives that jax passes on."""
    gradient: list[np.ndarray]
    again: Callable[[bool, int], tuple[list[dict[int, np.ndarray]], list[np.ndarray]]]
    """The cotangents and the gradient, with what every rule gives shaken, and with one stop_gradient open."""


def traced(flat: Flat, ins: Values, cotangents: Values, kept: set[int]) -> Trace:
    """Run the function and its reverse mode, one operation at a time.

    kept: the operations that are looked at; others are compiled together, which is sooner done.
    """
    failures, reached = dict[int, str](), set[int]()
    constants = {s: v for s, v in flat.known.items() if isinstance(v, Array)}
    literals = {s: v for s, v in flat.known.items() if s not in constants}
    stops = [n for n, op in enumerate(flat.ops) if op.name == "stop_gradient" and flat.plainly_from(op)]

    def program(ins: Values, constants: Any, cotangents: Values, noise: Any, gates: dict[int, Any]) -> Any:
        env = {**literals, **constants, **dict(zip(flat.ins, ins, strict=True))}
        for op in flat.ops:
            env.update(zip(op.outs, bind(op.eqn, [env[s] for s in op.ins]), strict=True))
        ct: dict[Slot, Any] = {}

        def add(slot: Slot, g: Any) -> None:
            if flat.levels[slot] and g is not None:
                ct[slot] = ct[slot] + g if slot in ct else g

        for s, g in zip(flat.outs, cotangents, strict=True):
            add(s, g)
        given, gave = list[Any](), list[Any]()
        for n, op in reversed(list(enumerate(flat.ops))):
            cts, wanted, rules = {k: ct[s] for k, s in enumerate(op.outs) if s in ct}, flat.wanted(op), {}
            operands, plainly = [env[s] for s in op.ins], flat.plainly(op)
            refuses = plainly and "callback" in op.name and "debug" not in op.name  # also without a result
            if op.name == "stop_gradient":
                rules = {k: jnp.where(gates[n], g, jnp.zeros_like(g)) for k, g in cts.items() if n in gates}
            elif op.name not in FLAT and wanted and (cts or refuses):
                pulled, error = tried(pulled_back, lambda *a, op=op: bind(op.eqn, a), operands, wanted, cts)
                if error is None:
                    rules = dict(zip(wanted, pulled, strict=True))
                elif plainly:  # what comes before is still looked at, with a cotangent of no meaning
                    failures[n] = str(error).strip().split("\n")[0].split(". ")[0]
                    rules = {k: jnp.ones_like(operands[k]) for k in wanted}
            reached.update([n] if plainly and rules else [])
            for k, g in rules.items():
                add(op.ins[k], g if noise is None else _shaken(g, noise[n + k :]))
            given.append(cts if n in kept else {})
            gave.append(rules if n in kept else {})
        seen = {*flat.ins, *flat.outs, *(s for n in kept for s in flat.ops[n].ins)}
        gradient = [ct.get(s, jnp.zeros_like(env[s])) for s in flat.ins if flat.levels[s]]
        return {s: env[s] for s in seen - flat.known.keys()}, given[::-1], gave[::-1], gradient

    sizes = [
        math.prod(getattr(v.aval, "shape", ())) for op in flat.ops for v in (*op.eqn.invars, *op.eqn.outvars)
    ]
    run, most = compiled_once(program, sum(sizes)), 2 * len(sizes) + max(sizes, default=0)

    def run_with(noise: Any, gates: dict[int, Any]) -> Any:
        found = run(ins, constants, cotangents, noise, gates)
        return found[0], *jax.tree.map(doubled, found[1:])

    def again(shake: bool, opened: int) -> Any:
        noise = np.random.default_rng(0).uniform(-1, 1, most)
        return run_with(shake * noise, {n: np.bool_(n == opened) for n in stops})[1::2]

    values, cts, rules, gradient = run_with(None, {})
    return Trace(values | flat.known, cts, rules, failures, reached, gradient, again)


def _shaken(g: Array, noise: Array) -> Array:
    """Return numbers with what rounding does to them made a hundred times as large."""
    most = min(100 * float(jnp.finfo(g.dtype).eps), 0.05)
    return g * (1 + most * noise[: g.size].astype(g.dtype)).reshape(g.shape)


def compiled_once(program: Callable[..., Any], size: int, *, rules: bool = True) -> Callable[..., Any]:
    """Return a program that runs once; where it works on few numbers, compiling it is all that it costs."""
    how = "rules" if rules else "once"
    return jax.jit(program, compiler_options=compiler_options(how) if size < _FEW else None)


def tried(pull: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
    """Return what a pull-back gives, or None and what it raises: it calls rules that the user wrote."""
    try:
        return pull(*args), None
    except Exception as error:  # the user's rules may raise anything; each caller says what that means
        return None, error


def pulled_back(
    function: Callable[..., Any], ins: Values, wanted: Sequence[int], cts: dict[int, Any]
) -> Values:
    """Return the cotangents of the wanted inputs; without a result that has none, as jax would."""

    def results(*moved: Any) -> Values:
        full = list(ins)
        for k, value in zip(wanted, moved, strict=True):
            full[k] = value
        found = function(*full)
        return [found[k] for k in cts]

    return list(jax.vjp(results, *(ins[k] for k in wanted))[1](list(cts.values())))
