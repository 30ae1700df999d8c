"""The operation in which a wrong derivative arises: every rule against its own operation's numerical slope.

One program runs the function and its reverse mode in the function's own types and keeps what each operation's
rule was given and gave. Another moves, in float64, the inputs of every operation whose rule is not beyond
question. Loops, branches and custom rules are operations like any other. Where one is at fault, the same walk
goes on inside of it, at the iteration in which the fault shows.
"""

import math
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun

from jaxnet.gradcheck.interpret import bind, inside, literal, still_going
from jaxnet.gradcheck.widen import frames, widen

PyTree = Any
Values = list[Any]
Slot = int  # a value of a function without calls

# How a value depends on the inputs: not, behind a stop_gradient or a step, or plainly.
_NOT, _STOPPED, _PLAINLY = range(3)
_STEPS = 2.0 ** -np.arange(5, 36, 3)  # of the numerical slopes: from 3e-2 to 3e-11
_FINEST = 4  # steps so small that what is not smooth about a value there is rounding
_KINK = slice(5, 8)  # steps at which a kink at the point itself shows as two slopes
_GROUPS = 256  # of elements judged by themselves, where an operation works element by element
_BATCH = 2**22  # numbers evaluated at once
_ITERATIONS, _COMPARED = 20_000, 300  # of a loop: that are gone through one by one, and that are compared
_EPS = 2.0**-52
_FEW = 10**6  # numbers that are computed sooner than a program is optimized

# fmt: off
_CALLS = {"checkpoint", "closed_call", "core_call", "custom_vmap_call", "jit", "pjit", "remat", "remat2"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_FLAT = {"argmax", "argmin", "ceil", "floor", "round", "sign"}
# Linear, bilinear or moving elements about: jax's own rules, that a numerical slope could only confirm. The
# rule of random_gamma is that of the distribution, not of the sample.
_TRUSTED = _FLAT | {
    "add", "add_any", "broadcast_in_dim", "complex", "concatenate", "conj", "conv_general_dilated",
    "convert_element_type", "copy", "copy_p", "cumsum", "dot_general", "dynamic_slice",
    "dynamic_update_slice", "expand_dims", "fft", "gather", "imag", "mul", "neg", "pad", "psum",
    "ragged_dot_general", "random_gamma", "real", "reduce_precision", "reduce_sum", "reshape", "rev",
    "scatter", "scatter-add", "select_n", "slice", "split", "squeeze", "stop_gradient", "sub", "transpose",
}
_ELEMENTWISE = _CALLS | _CUSTOM | {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh", "digamma",
    "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac",
    "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "not", "or", "polygamma", "pow", "regularized_incomplete_beta", "rem", "round", "rsqrt",
    "select_n", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor", "zeta",
}
_SYMMETRIC = {"cholesky", "eigh"}  # of a symmetric matrix, that a change has to leave so
# fmt: on


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
    chosen = {n % len(args) for n in ([argnums] if isinstance(argnums, int) else argnums)}
    leaves, tree = jax.tree.flatten(args)
    leaves = [jnp.asarray(v) if isinstance(v, np.ndarray | np.generic) else v for v in leaves]
    marks = [n in chosen for n, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
    floating = [isinstance(v, float | complex | Array) and _is_inexact(jnp.result_type(v)) for v in leaves]
    moving = [k for k, both in enumerate(zip(marks, floating, strict=True)) if all(both)]
    if not moving:
        raise ValueError(f"args must have a floating-point number in argnums, got none in {argnums}")

    def of_moving(*moved: Any) -> Values:
        full = list(leaves)
        for k, value in zip(moving, moved, strict=True):
            full[k] = value
        return jax.tree.leaves(f(*jax.tree.unflatten(tree, full)))

    values = [jnp.asarray(leaves[k]) for k in moving]
    closed, given = jax.make_jaxpr(of_moving)(*values), jax.tree.leaves(cotangent)
    if not given:
        rng, scalar = np.random.default_rng(0), [a.shape for a in closed.out_avals] == [()]
        given = [1.0 if scalar else rng.choice(np.r_[-12:-3, 4:13] / 8, a.shape) for a in closed.out_avals]
    pairs = zip(given, closed.out_avals, strict=True)
    cotangents = [jnp.asarray(g, a.dtype) if _inexact(a) else None for g, a in pairs]
    return find_origins(closed, values, cotangents).origins


def find_origins(
    closed_jaxpr: ClosedJaxpr, values: Sequence[Any], cotangents: Sequence[Any], *, rng_seed: int = 0
) -> Located:
    """Return the operations of a traced function in which its derivative goes wrong.

    closed_jaxpr: of floating-point inputs only, traced in the function's own types. values: of its inputs.
    cotangents: of its outputs, None for one that is not of floating point.
    """
    if any("Ref" in type(v.aval).__name__ for e in _all_eqns(closed_jaxpr.jaxpr) for v in e.outvars):
        return Located((), 0, ("a function with mutable arrays is not looked into",))
    place, levels = _Place((), (), rng_seed), [_PLAINLY] * len(values)
    with jax.debug_nans(False), jax.debug_infs(False):
        origins, checked, notes = _examine(closed_jaxpr, list(values), list(cotangents), levels, place)
    first = {origin[:5]: origin for origin in reversed(origins)}  # of what a line does more than once
    return Located(tuple(reversed(first.values())), checked, tuple(dict.fromkeys(notes)))


class _Place(NamedTuple):
    """Where in the function a walk is."""

    calls: tuple[JaxprEqn, ...]
    """What it is inside of, outermost first."""
    iterations: tuple[str, ...]
    seed: int


def _examine(
    closed: ClosedJaxpr, ins: Values, cotangents: Values, levels: Sequence[int], place: _Place
) -> Located:
    """Return what is wrong in a function, or in the part of it that is inside of something."""
    flat = _flatten(closed, levels)
    trace = _trace(flat, ins, cotangents, {n for n, op in enumerate(flat.ops) if _matters(op)})
    results = [trace.values[s] for s, a in zip(flat.outs, closed.out_avals, strict=True) if _inexact(a)]
    broken = not _finite([*trace.gradient, *results])
    if broken:
        trace = _trace(flat, ins, cotangents, set(range(len(flat.ops))))
    suspects, checked = _compared(flat, trace, place.seed)
    suspects |= {n: ("stopped", detail) for n, detail in _stopped(flat, trace).items()}
    if broken:
        suspects |= {n: ("not finite", detail) for n, detail in _not_finite(flat, trace).items()}
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
    wanted = [k for k, level in enumerate(levels) if level and _inexact(closed.in_avals[k])]
    given = {k: g for k, g in enumerate(cotangents) if g is not None}
    try:
        jax.eval_shape(lambda: _pull(jaxpr_as_fun(closed), ins, wanted, given))
    except Exception:  # a rule may raise anything
        return False
    return True


# A function without calls.


class _Op(NamedTuple):
    """An operation: its equation, the slots of what it takes and gives, and the calls it is inside of."""

    eqn: JaxprEqn
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    calls: tuple[JaxprEqn, ...]

    @property
    def name(self) -> str:
        """Return the primitive's name."""
        return str(self.eqn.primitive.name)


class _Flat(NamedTuple):
    """A function without calls: its operations in order, its values by slot."""

    ops: tuple[_Op, ...]
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    levels: list[int]
    """By slot: how it depends on the inputs."""
    known: dict[Slot, Any]
    """Literals and constants."""

    def wanted(self, op: _Op) -> list[int]:
        """Return the places of an operation's inputs that a cotangent goes to."""
        return [k for k, s in enumerate(op.ins) if self.levels[s] and _inexact(op.eqn.invars[k].aval)]

    def plainly(self, op: _Op) -> bool:
        """Return whether jax differentiates an operation at all."""
        return any(self.levels[s] == _PLAINLY for s in op.outs or op.ins)

    def plainly_from(self, op: _Op) -> bool:
        """Return whether jax would differentiate an operation that has no derivative by design."""
        return any(self.levels[s] == _PLAINLY for s in op.ins)


def _flatten(closed: ClosedJaxpr, levels: Sequence[int]) -> _Flat:
    """Return a function without calls; levels: of its inputs."""
    known, found, ops = dict[Slot, Any](), list(levels), list[_Op]()

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
            if eqn.primitive.name in _CALLS:
                called = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "call") if k in eqn.params)
                outs = walk(called, slots, (*calls, eqn))
            else:
                outs = tuple(map(slot, _levels(eqn, [found[s] for s in slots])))
                ops.append(_Op(eqn, slots, outs, calls))
            scope.update(zip(eqn.outvars, outs, strict=True))
        return tuple(map(read, jaxpr.outvars))

    ins = tuple(range(len(levels)))
    outs = walk(closed, ins, ())
    return _Flat(tuple(ops), ins, outs, found, known)


def _levels(eqn: JaxprEqn, levels: Sequence[int]) -> list[int]:
    """Return how an operation's results depend on the inputs, given how its operands do."""
    name, level = eqn.primitive.name, max(levels, default=_NOT)
    found = [min(level, _STOPPED) if name in {"stop_gradient", *_FLAT} else level] * len(eqn.outvars)
    if level and name == "cond":
        branches = [_flatten(branch, levels[1:]) for branch in eqn.params["branches"]]
        found = [max(each) for each in zip(*([b.levels[s] for s in b.outs] for b in branches), strict=True)]
    elif level and name in ("scan", "while"):
        found = _loop_levels(eqn, levels)[1]
    # An integer that depends on the inputs is a step function of them.
    return [at if _inexact(v.aval) else min(at, _STOPPED) for at, v in zip(found, eqn.outvars, strict=True)]


def _loop_levels(eqn: JaxprEqn, levels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how the operands of a loop's body, and the loop's results, depend on the inputs."""
    body, consts, carry, xs = _loop(eqn, list(levels))
    while True:
        flat = _flatten(body, [*consts, *carry, *xs])
        outs = [flat.levels[s] for s in flat.outs]
        if (new := [max(pair) for pair in zip(carry, outs, strict=False)]) == carry:
            return [*consts, *carry, *xs], [*carry, *outs[len(carry) :]]
        carry = new


def _loop(eqn: JaxprEqn, ins: Values) -> tuple[ClosedJaxpr, Values, Values, Values]:
    """Return a loop's body, and of the operands its constants, the first carry, and what is scanned over."""
    if eqn.primitive.name == "scan":
        first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
        return eqn.params["jaxpr"], ins[:first], ins[first:last], ins[last:]
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    return eqn.params["body_jaxpr"], ins[first:last], ins[last:], []


def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _inexact(aval: Any) -> bool:
    return hasattr(aval, "dtype") and _is_inexact(aval.dtype)


def _wide(value: Any) -> Any:
    """Return inexact numbers in NumPy's double precision, anything else as it is."""
    dtype = jnp.result_type(value)
    if not _is_inexact(dtype):
        return value
    wide = np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
    return np.asarray(value).astype(wide)


def _type(op: "_Op", k: int) -> Any:
    """Return the type of an operation's result."""
    aval: Any = op.eqn.outvars[k].aval
    return aval.dtype


def _finite(values: Any) -> bool:
    return all(bool(np.isfinite(_wide(v)).all()) for v in values)


# The function and its reverse mode, in its own types.


class _Trace(NamedTuple):
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


def _trace(flat: _Flat, ins: Values, cotangents: Values, kept: set[int]) -> _Trace:
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
            elif op.name not in _FLAT and wanted and (cts or refuses):
                try:
                    pulled = _pull(lambda *a, op=op: bind(op.eqn, a), operands, wanted, cts)
                    rules = dict(zip(wanted, pulled, strict=True))
                except Exception as error:  # a rule may raise anything
                    if plainly:  # what comes before is still looked at, with a cotangent of no meaning
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
    run, most = _compiled(program, sum(sizes)), 2 * len(sizes) + max(sizes, default=0)

    def run_with(noise: Any, gates: dict[int, Any]) -> Any:
        found = run(ins, constants, cotangents, noise, gates)
        return found[0], *jax.tree.map(_wide, found[1:])

    def again(shake: bool, opened: int) -> Any:
        noise = np.random.default_rng(0).uniform(-1, 1, most)
        return run_with(shake * noise, {n: np.bool_(n == opened) for n in stops})[1::2]

    values, cts, rules, gradient = run_with(None, {})
    return _Trace(values | flat.known, cts, rules, failures, reached, gradient, again)


def _shaken(g: Array, noise: Array) -> Array:
    """Return numbers with what rounding does to them made a hundred times as large."""
    most = min(100 * float(jnp.finfo(g.dtype).eps), 0.05)
    return g * (1 + most * noise[: g.size].astype(g.dtype)).reshape(g.shape)


def _compiled(program: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Return a program that runs once; where it works on few numbers, compiling it is all that it costs."""
    few = size < _FEW and jax.default_backend() == "cpu"
    return jax.jit(program, compiler_options={"xla_backend_optimization_level": 0} if few else None)


def _pull(function: Callable[..., Any], ins: Values, wanted: Sequence[int], cts: dict[int, Any]) -> Values:
    """Return the cotangents of the wanted inputs; without a result that has none, as jax would."""

    def results(*moved: Any) -> Values:
        full = list(ins)
        for k, value in zip(wanted, moved, strict=True):
            full[k] = value
        found = function(*full)
        return [found[k] for k in cts]

    return list(jax.vjp(results, *(ins[k] for k in wanted))[1](list(cts.values())))


# A rule against the numerical slope.


class _Piece(NamedTuple):
    """A part of the function, an operation or a loop's body, and what its rule is compared at."""

    function: ClosedJaxpr
    """In its own types, with those results only that have a cotangent."""
    wanted: tuple[int, ...]
    groups: int
    eps: float
    """The relative spacing of the least precise type in it."""
    within: frozenset[str]
    """The names of all primitives in it."""
    key: str
    """Pieces with the same one have the same values."""
    ins: Values
    cts: Values
    rules: Values
    directions: Values
    """For each wanted input two."""

    def at(self, ins: Values, cts: Values, rules: Values, seeds: Sequence[Any]) -> "_Piece":
        """Return the piece at other values; inputs with one seed are moved together."""
        directions = []
        for k, seed in zip(self.wanted, seeds, strict=True):
            x, rng = _wide(ins[k]), np.random.default_rng(seed)
            signs = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1, x.shape)
            if np.iscomplexobj(x):
                signs = signs * np.exp(2j * np.pi * rng.uniform(size=x.shape))
            # One in proportion to each element, so that none leaves its domain, and one alike for all.
            scale = min(math.sqrt(np.mean(np.abs(x) ** 2)) or 1.0, 1.0) if x.size else 1.0
            d = np.stack([np.abs(x) * signs, scale * np.flip(signs)])
            directions.append(self.symmetric(d))
        cts, rules = list(map(_wide, cts)), list(map(_wide, rules))
        return self._replace(ins=ins, cts=cts, rules=rules, directions=directions)

    def symmetric(self, x: np.ndarray) -> np.ndarray:
        """Return what an operation on symmetric matrices can take."""
        alone = len(self.function.eqns) == 1 and self.within <= _SYMMETRIC
        return (x + np.swapaxes(x, -1, -2).conj()) / 2 if alone else x

    def along(self, rules: Values, absolute: bool = False) -> np.ndarray:
        """Return the slopes by a rule, [directions, groups]."""
        found = np.zeros((2, self.groups))
        for rule, direction in zip(rules, self.directions, strict=True):
            terms = [(rule * d).real for d in direction]
            found += np.stack([_grouped(np, np.abs(t) if absolute else t, self.groups) for t in terms])
        return found

    def coarseness(self) -> np.ndarray:
        """Return how much larger than its direction an input is, [directions]: so coarse is its move."""
        found = np.zeros(2)
        for k, d in zip(self.wanted, self.directions, strict=True):
            ratio = np.abs(_wide(self.ins[k])) / np.where(d == 0, np.inf, np.abs(d))
            found = np.maximum(found, ratio.reshape(2, -1).max(1, initial=0))
        return found


class _Slopes(NamedTuple):
    """The numerical side: sums over the results, [directions, steps, signs, groups] and [groups]."""

    change: np.ndarray
    size: np.ndarray
    value: np.ndarray


class _Verdict(NamedTuple):
    """By direction and group: the slope by the rule, how much it is beside the numerical one, and may be."""

    slope: np.ndarray
    mismatch: np.ndarray
    allowed: np.ndarray
    clear: bool
    """Whether the numerical slope is good enough to have shown a fault."""

    @property
    def wrong(self) -> np.ndarray:
        """Return where the rule is wrong."""
        return np.abs(self.mismatch) > self.allowed


def _piece(
    function: Callable[..., Any], avals: Sequence[Any], wanted: Sequence[int], outs: Sequence[int]
) -> _Piece:
    """Return a part of the function, to be compared at values that are still to be given."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    closed = jax.make_jaxpr(lambda *ins: [found[k] for found in [function(*ins)] for k in outs])(*shapes)
    eqns = list(_all_eqns(closed.jaxpr))
    names = frozenset(e.primitive.name for e in eqns)
    seen: list[Any] = [atom.aval for e in eqns for atom in [*e.invars, *e.outvars]]
    shape = closed.out_avals[0].shape if closed.out_avals else ()
    alone = len(outs) == 1 and names <= _ELEMENTWISE and all(avals[k].shape == shape for k in wanted)
    alone = alone and all(getattr(a, "shape", None) in (shape, ()) for a in seen)
    eps = max((float(jnp.finfo(a.dtype).eps) for a in seen if _inexact(a)), default=_EPS)
    key = f"{wanted} {closed}" if names <= _ELEMENTWISE else str(id(closed))
    groups = min(_GROUPS, max(math.prod(shape), 1)) if alone else 1
    return _Piece(closed, tuple(wanted), groups, eps, names, key, [], [], [], [])


def _all_eqns(jaxpr: Any) -> Iterator[JaxprEqn]:
    """Yield all equations, also those inside of others."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in inside(eqn):
            yield from _all_eqns(inner.jaxpr)


def _slopes(pieces: Sequence[_Piece]) -> Callable[[Sequence[_Piece]], list[_Slopes | None]]:
    """Return the function that moves the inputs of such pieces in float64; None is of one that refuses."""
    alike: dict[str, list[int]] = {}
    for n, piece in enumerate(pieces):
        alike.setdefault(piece.key, []).append(n)

    def program(data: Values) -> Values:
        found: Values = []
        for (first, *_), one in zip(alike.values(), data, strict=True):
            try:
                found.append(jax.vmap(lambda *a, piece=pieces[first]: _moved(piece, *a))(*one))
            except Exception:  # an operation may refuse anything
                found.append(None)
        return found

    size = sum(math.prod(a.shape) for piece in pieces for a in piece.function.out_avals)
    compiled = _compiled(program, 4 * len(_STEPS) * size)

    def run(pieces: Sequence[_Piece]) -> list[_Slopes | None]:
        results: list[_Slopes | None] = [None] * len(pieces)
        with jax.enable_x64(True):
            data = [(list(map(_wide, p.ins)), p.cts, p.directions) for p in pieces]
            groups = [[data[n] for n in some] for some in alike.values()]
            stacked = [jax.tree.map(lambda *v: _stack(v), *group) for group in groups]
            for some, found in zip(alike.values(), compiled(stacked), strict=True):
                for at, n in enumerate(some if found else []):
                    results[n] = _Slopes(*(np.asarray(v)[at] for v in found))
        return results

    return run


def _stack(values: Sequence[Any]) -> Any:
    """Return values with an axis of instances, in NumPy but for random keys: it compiles nothing."""
    keys = jnp.issubdtype(values[0].dtype, jax.dtypes.extended)
    return jnp.stack(values) if keys else np.stack([np.asarray(v) for v in values])


def _moved(piece: _Piece, ins: Values, cts: Values, directions: Values) -> tuple[Any, Any, Any]:
    """Return the changes of a piece's results along the directions, times their cotangents."""
    evaluate = jaxpr_as_fun(widen(piece.function).jaxpr)
    base = evaluate(*ins)

    def summed(terms: Values) -> Any:
        return sum(_grouped(jnp, t, piece.groups) for t in terms)

    def at(point: tuple[Array, Array]) -> tuple[Array, Array]:
        full = list(ins)
        for k, d in zip(piece.wanted, directions, strict=True):
            full[k] = full[k] + (point[0].astype(d.dtype) * d[point[1]]).astype(full[k].dtype)
        terms = [(g * (y - b)).real for g, y, b in zip(cts, evaluate(*full), base, strict=True)]
        return summed(terms), summed(list(map(jnp.abs, terms)))

    steps, which = np.broadcast_arrays(np.stack([_STEPS, -_STEPS], -1), np.arange(2)[:, None, None])
    points = (jnp.asarray(steps.ravel()), jnp.asarray(which.ravel()))
    fit = max(1, _BATCH // max(sum(np.size(v) for v in [*ins, *base]), 1))
    try:
        change, size = lax.map(at, points, batch_size=fit) if fit < steps.size else jax.vmap(at)(points)
    except (NotImplementedError, ValueError):  # a callback that does not say how it is mapped
        change, size = lax.map(at, points)
    value = summed([jnp.abs(g * b) for g, b in zip(cts, base, strict=True)])
    return change.reshape(*steps.shape, -1), size.reshape(*steps.shape, -1), value


def _grouped(xp: Any, terms: Any, groups: int) -> Any:
    """Return the sums of consecutive elements, [groups]."""
    return xp.pad(terms.ravel(), (0, -terms.size % groups)).reshape(groups, -1).sum(1)


def _judged(piece: _Piece, slopes: _Slopes, rules: Values, eps: float) -> _Verdict:
    """Judge a rule by the numerical slopes at all steps; eps: of the type in which the rule was computed."""
    h, own = _STEPS[:, None], piece.along(rules)
    solver = "while" in piece.within  # its value is good to a tolerance only
    with np.errstate(all="ignore"):
        up, down = slopes.change[:, :, 0], slopes.change[:, :, 1]
        rounding = piece.eps if any("callback" in name for name in piece.within) else _EPS
        sizes, terms = slopes.size.max(2) / h, piece.along(rules, absolute=True)
        uneven = np.maximum.accumulate(np.abs(up + down)[:, : -_FINEST - 1 : -1], 1)[:, ::-1] / 2
        uneven = np.concatenate([uneven[:, :1]] * (len(_STEPS) - _FINEST) + [uneven], 1)
        displaced = rounding * piece.coarseness()[:, None, None] * np.maximum(sizes, terms[:, None])
        noise = (np.maximum(4 * rounding * slopes.value, uneven) + displaced) / h
        beside = (up - down) / (2 * h) - own[:, None]
        beside = (64 * beside[:, 1:] - beside[:, :-1]) / 63
        bars = []
        for k in range(len(_STEPS) - 2):
            # A slope that a smaller step contradicts is none: it may come from steps beyond many periods.
            later = np.abs(beside[:, k + 1 :] - beside[:, k : k + 1])
            contradiction = np.maximum(later - 4 * noise[:, k + 2 :], 0).max(1)
            bars.append(later[:, 0] + 2 * noise[:, k + 1] + contradiction)
        bar = np.nan_to_num(np.stack(bars, 1), nan=np.inf)
        best = bar.argmin(1)[:, None]
        mismatch, bar = (np.take_along_axis(a, best, 1)[:, 0] for a in (beside, bar))
        size = np.take_along_axis(sizes, best + 1, 1)[:, 0]
        believable = (10 * bar <= size) | ((size == 0) & np.isfinite(bar) & (not solver))
        relative = max(1e-6 if eps == _EPS else 1e-4, 4 * eps, 1e-2 * solver)
        tiny = 100 * float(jnp.finfo(jnp.float64 if eps == _EPS else jnp.float32).tiny)
        allowed = relative * size + min(relative, 100 * eps) * terms
        allowed += (16 * eps + 1e-3 * solver) * slopes.value
        allowed += tiny * sum(np.abs(d).sum() for d in piece.directions)
        # At a kink a rule may be anything between the slopes on the two sides.
        sides = np.stack([up / h - own[:, None], -down / h - own[:, None]])[:, :, _KINK]
        margin = allowed[:, None] + 2 * noise[:, _KINK]
        between = ((sides.min(0) <= margin) & (sides.max(0) >= -margin)).any(1)
        allowed += 10 * np.where(believable, bar, 0)
        clear = bool((believable & (~between | (np.abs(mismatch) <= allowed))).all())
        return _Verdict(own, np.where(between | ~believable, 0, mismatch), allowed, clear)


def _verdict(piece: _Piece, slopes: _Slopes) -> _Verdict:
    """Return the verdict on a piece's rule, with what rounding explains allowed for.

    Under suspicion a rule is run again, in its own types at inputs a rounding beside, and without rounding.
    One that is right without is wrong in its own type only where rounding explains nothing near what it says.
    """
    verdict, eps, function = _judged(piece, slopes, piece.rules, piece.eps), piece.eps, piece.function
    if not verdict.wrong.any():
        return verdict

    def pull(ins: Values, cts: Values) -> Values:
        return _pull(jaxpr_as_fun(function), ins, piece.wanted, dict(enumerate(cts)))

    rng, run, spread = np.random.default_rng(0), jax.jit(pull), np.zeros_like(verdict.slope)
    cts = [jnp.asarray(g, a.dtype) for g, a in zip(piece.cts, function.out_avals, strict=True)]
    for _ in range(3):
        ins = list(piece.ins)
        for k in piece.wanted:
            near = np.asarray(_wide(ins[k]) * (1 + eps * rng.choice([-1.0, 1.0], np.shape(ins[k]))))
            ins[k] = jnp.asarray(piece.symmetric(near), function.in_avals[k].dtype)
        apart = piece.along(list(map(_wide, run(ins, cts)))) - verdict.slope
        spread = np.maximum(spread, np.nan_to_num(np.abs(apart)))
    allowed = verdict.allowed + 4 * spread
    if eps == _EPS:
        return verdict._replace(allowed=allowed)
    rule = jax.make_jaxpr(pull)(list(piece.ins), cts)
    with jax.enable_x64(True):
        rules = jaxpr_as_fun(widen(rule).jaxpr)(*map(_wide, piece.ins), *piece.cts)
    reach = max(1.0, *(float(np.abs(d).max(initial=0)) for d in piece.directions))
    scale = reach * sum(float(np.abs(g).sum()) for g in piece.cts) + slopes.value
    gross = 1e-2 * np.abs(verdict.slope) + 1e3 * eps * scale
    wide = _judged(piece, slopes, list(map(_wide, rules)), _EPS)
    return verdict._replace(allowed=np.where(wide.wrong, allowed, allowed + gross))


def _compared(flat: _Flat, trace: _Trace, seed: int) -> tuple[dict[int, tuple[str, str]], int]:
    """Return the operations whose rule is wrong or to be looked into, and the number of right ones."""
    pieces: dict[int, _Piece] = {}
    checked = 0
    for n, op in enumerate(flat.ops):
        rules, cts = trace.rules[n], trace.cts[n]
        if n not in trace.reached or n in trace.failures or not _finite([*rules.values(), *cts.values()]):
            continue
        wanted = flat.wanted(op)
        if op.name == "custom_linear_solve":  # its value follows from what solve holds, its rule from matvec
            wanted = [k for k in wanted if k >= sum(op.eqn.params["const_lengths"])]
        ins = [trace.values.get(s) for s in op.ins]
        moved = any(map(np.any, cts.values())) and wanted and _finite(ins[k] for k in wanted)
        if op.name in _TRUSTED or not moved:
            checked += 1
            continue
        avals = [atom.aval for atom in op.eqn.invars]
        piece = _piece(lambda *a, op=op: bind(op.eqn, a), avals, wanted, list(cts))
        seeds = [[seed, op.ins[k]] for k in wanted]
        pieces[n] = piece.at(ins, list(cts.values()), [rules[k] for k in wanted], seeds)
    found: dict[int, tuple[str, str]] = {}
    for (n, piece), slopes in zip(pieces.items(), _evaluated(list(pieces.values())), strict=True):
        verdict = slopes and _verdict(piece, slopes)
        if verdict and verdict.wrong.any():
            worst = np.unravel_index(np.argmax(np.abs(verdict.mismatch) * verdict.wrong), verdict.slope.shape)
            rule, slope = verdict.slope[worst], verdict.slope[worst] + verdict.mismatch[worst]
            kind = "wrong rule" if any(map(np.any, piece.rules)) else "stopped"
            found[n] = kind, f"slope {rule:.3g} by its rule, {slope:.3g} numerically"
        elif flat.ops[n].name in ("cond", "scan", "while") and not (verdict and verdict.clear):
            found[n] = "", ""
        else:
            checked += verdict is not None
    return found, checked


def _evaluated(pieces: list[_Piece]) -> list[_Slopes | None]:
    """Return the slopes of all pieces: by one program, or where that fails by one for each."""
    try:
        return _slopes(pieces)(pieces) if pieces else []
    except Exception:  # of a callback
        return [None] if len(pieces) == 1 else [found for piece in pieces for found in _evaluated([piece])]


# What is at fault otherwise, and what is only to be noted.


def _stopped(flat: _Flat, trace: _Trace) -> dict[int, str]:
    """Return each stop_gradient without which the gradient would be another.

    Where a function does not depend on what is stopped, as in a softmax that subtracts its maximum, the
    cotangents that arrive sum up to zero but for rounding.
    """
    found = {}
    for n, op in enumerate(flat.ops):
        if op.name != "stop_gradient" or not flat.plainly_from(op) or 0 not in trace.cts[n]:
            continue
        ct, near = trace.cts[n][0], 100 * float(jnp.finfo(_type(op, 0)).eps)
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


def _after(flat: _Flat, op: _Op) -> list[int]:
    """Return the operations that depend on an operation."""
    reached, found = set(op.outs), list[int]()
    for n, other in enumerate(flat.ops):
        if reached.intersection(other.ins):
            reached.update(other.outs)
            found.append(n)
    return found


def _not_finite(flat: _Flat, trace: _Trace) -> dict[int, str]:
    """Return each operation that makes of finite numbers, forwards or backwards, such as are not."""
    found: dict[bool, dict[int, str]] = {True: {}, False: {}}
    for n, op in enumerate(flat.ops):
        rules, cts = trace.rules[n], trace.cts[n]
        if n in trace.failures or not flat.plainly(op) or not cts:
            continue
        ins = _finite(trace.values[s] for s in op.ins if flat.levels[s] == _PLAINLY)
        values = {k: _wide(trace.values[op.outs[k]]) for k in cts}
        back = _finite(cts.values()) and not _finite(rules.values())
        if back or (ins and any((~np.isfinite(values[k]) & (g != 0)).any() for k, g in cts.items())):
            found[ins][n] = _described(op, flat, trace, rules, cts, values)
    return found[True] or found[False]


def _described(op: _Op, flat: _Flat, trace: _Trace, rules: Any, cts: Any, values: Any) -> str:
    """Return what goes into an operation and comes out that is not finite."""
    gave = next((g for g in rules.values() if not _finite([g])), None)
    value = next((v for v in values.values() if not _finite([v])), None)
    bad: Any = value if gave is None else gave
    at = int(np.argmin(np.isfinite(bad).ravel()))

    def element(v: np.ndarray) -> Any:
        return v.ravel()[at if v.shape == bad.shape else np.abs(v).argmax()] if v.size else 0.0

    ct = element(next(iter(cts.values())))
    inexact = [s for s, atom in zip(op.ins, op.eqn.invars, strict=True) if _inexact(atom.aval)]
    points = [_wide(trace.values[s]) for s in inexact]
    here = ", ".join(f"{element(p):.4g}" for p in points if p.shape == bad.shape or p.size == 1)
    text = op.name + (f" at {here}" if here else "")
    if gave is not None:
        text = f"cotangent {ct:.3g} in, {element(gave):.3g} out: {text}"
    if value is not None:
        text += f" is {element(value):.3g} in {_type(op, 0)}"
    if gave is not None and ct == 0 and any(flat.ops[n].name == "select_n" for n in _after(flat, op)):
        text += "; the where() after it hides the value, not the derivative: make the argument of "
        text += f"{op.name} harmless with a second where() before it"
    return text.replace("nan", "NaN")


def _notes(flat: _Flat, trace: _Trace, place: _Place) -> tuple[str, ...]:
    """Return a line for each operation that is flat almost everywhere and at which a cotangent ends."""
    makers = {s: op for op in flat.ops for s in op.outs}

    def steps(op: _Op) -> Iterator[_Op]:
        """Yield the operations that make the integers, of what is not, that an operation comes from."""
        if flat.plainly_from(op):
            yield op
        else:
            for s in op.ins:
                yield from steps(makers[s]) if flat.levels[s] and s in makers else ()

    found = []
    for n, op in enumerate(flat.ops):
        ends = (op.name in _FLAT and flat.plainly_from(op)) or _from_integer(op)
        if ends and any(map(np.any, trace.cts[n].values())):
            for each in steps(op):
                where, function = _where(each.eqn, (*place.calls, *each.calls))
                found.append(f"no gradient flows through {each.name}, {where} in {function}: it is flat")
    return tuple(found)


def _matters(op: _Op) -> bool:
    """Return whether an operation is compared, stops a cotangent, or may be noted."""
    return op.name not in _TRUSTED - _FLAT - {"stop_gradient"} or _from_integer(op)


def _from_integer(op: _Op) -> bool:
    return op.name == "convert_element_type" and not _inexact(op.eqn.invars[0].aval)


def _origin(op: _Op, place: _Place, kind: str, detail: str) -> Origin:
    """Return an operation that is at fault, by its line."""
    info = getattr(getattr(_primal(op.eqn), "jaxpr", None), "debug_info", None)
    name = str(info.func_src_info).split(" at ")[0] if info is not None else None
    where, function = _where(op.eqn, (*place.calls, *op.calls))
    detail += "".join(f", in {iteration}" for iteration in place.iterations)
    return Origin(op.name, name, where, function, kind, detail)


def _primal(eqn: JaxprEqn) -> Any:
    """Return the function that a custom rule is of, None for any other operation."""
    inner = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return inner if eqn.primitive.name in _CUSTOM else None


_HERE, _STANDARD = os.path.dirname(os.path.abspath(__file__)), sysconfig.get_paths()["stdlib"]


def _where(eqn: JaxprEqn, calls: Sequence[JaxprEqn]) -> tuple[str, str]:
    """Return the line of the user's code that made an operation, and the function in which it is."""
    outside = [f for e in (eqn, *reversed(calls)) for f in frames(e) if not f.file_name.startswith(_HERE)]
    mine = [f for f in outside if not f.file_name.startswith(_STANDARD) and "-packages" not in f.file_name]
    for frame in mine or outside:
        function = frame.function_name.split("<locals>.")[-1]
        return f"{os.path.basename(frame.file_name)}:{frame.line_num}", function
    return "unknown", "unknown"


# Inside of an operation.


def _inside(op: _Op, n: int, flat: _Flat, trace: _Trace, place: _Place) -> Located | None:
    """Return what is wrong inside of a loop, a branch, or a custom rule that repeats its function's own."""
    primal, rules = _primal(op.eqn), trace.rules[n]
    if op.name not in ("cond", "scan", "while") and (primal is None or n in trace.failures):
        return None
    ins, levels = [trace.values[s] for s in op.ins], [flat.levels[s] for s in op.ins]
    cts = {k: jnp.asarray(g, _type(op, k)) for k, g in trace.cts[n].items()}
    given = [cts.get(k) for k in range(len(op.outs))]
    within = place._replace(calls=(*place.calls, *op.calls, op.eqn))
    if op.name == "cond":
        return _examine(op.eqn.params["branches"][int(ins[0])], ins[1:], given, levels[1:], within)
    if op.name in ("scan", "while"):
        return _iterations(op.eqn, ins, cts, levels, within)
    try:
        plain = list(map(_wide, _pull(jaxpr_as_fun(primal), ins, list(rules), cts)))
    except Exception:  # the reason for which it has a rule
        return None
    pairs = [
        (g, r, np.abs(r[np.isfinite(r)]).max(initial=0)) for g, r in zip(plain, rules.values(), strict=True)
    ]
    same = all(np.allclose(g, r, 1e-3, 1e-3 * most, equal_nan=True) for g, r, most in pairs)
    return _examine(primal, ins, given, levels, within) if same else None


def _iterations(
    eqn: JaxprEqn, ins: Values, cts: dict[int, Any], levels: Sequence[int], place: _Place
) -> Located:
    """Return what is wrong inside of a loop, in the first iteration in which something is."""
    body, consts, carry, xs = _loop(eqn, ins)
    n, function, inner = len(carry), jaxpr_as_fun(body), _loop_levels(eqn, levels)[0]
    wanted = [k for k, level in enumerate(inner) if level and _inexact(body.in_avals[k])]
    flowing = [k for k in range(n) if len(consts) + k in wanted]
    order = list(range(eqn.params.get("length", _ITERATIONS)))[:: -1 if eqn.params.get("reverse") else 1]
    run, pull = jax.jit(function), jax.jit(lambda ins, cts: _pull(function, ins, wanted, cts))
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
        try:
            rules[at] = pull(states[at], given[at])
        except Exception:  # an operation without a derivative
            return look(int(at))
        if _finite(given[at].values()) and not _finite(rules[at]):
            return look(int(at))
        ct = {k: rules[at][wanted.index(len(consts) + k)] for k in flowing}
        if lanes[at].ndim:
            passed = still_going(lanes[at], list(ct.values()), [given[at][k] for k in ct])
            ct = dict(zip(ct, passed, strict=True))
    piece = _piece(function, body.in_avals, wanted, list(given[0]))
    slopes, unclear = _slopes([piece]), list[int]()
    sizes = [max((float(jnp.abs(g).max(initial=0)) for g in given[at].values()), default=0) for at in given]
    for at in np.unique(np.linspace(0, len(states) - 1, _COMPARED).astype(int)):
        if sizes[len(states) - 1 - at] < 1e-6 * max(sizes):
            continue  # what arrives there is too little to matter
        if not _finite([*given[at].values(), *(states[at][k] for k in wanted)]):
            return look(int(at))
        piece = piece.at(states[at], list(given[at].values()), rules[at], [[place.seed, k] for k in wanted])
        try:
            (found,) = slopes([piece])
        except Exception:  # of a callback
            found = None
        verdict = found and _verdict(piece, found)
        if verdict and verdict.wrong.any():
            return look(int(at))
        unclear += [] if verdict and verdict.clear else [int(at)]
    return look(unclear[0]) if unclear else Located((), len(body.jaxpr.eqns), ())
