"""The rule of each operation against the operation's own numerical slope, where a cotangent arrives."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxnet.gradcheck.interpret import all_eqns, bind
from jaxnet.gradcheck.operations import (
    CALLS,
    CUSTOM,
    FLAT,
    Flat,
    Trace,
    Values,
    compiled_once,
    doubled,
    finite,
    inexact,
    pulled_back,
)
from jaxnet.gradcheck.widen import widen

_STEPS = 2.0 ** -np.arange(5, 36, 3)  # of the numerical slopes: from 3e-2 to 3e-11
_FINEST = 4  # steps so small that what is not smooth about a value there is rounding
# Steps at which a kink at the point itself shows as two slopes, and where a callback rounds to float32.
_KINK, _COARSE_KINK = slice(4, 7), slice(2, 3)
_GROUPS = 256  # of elements judged by themselves, where an operation works element by element
_BATCH = 2**22  # numbers evaluated at once
_EPS, _COARSE = 2.0**-52, 2.0**-11

# fmt: off
# Linear, bilinear or moving elements about: jax's own rules, that a numerical slope could only confirm. The
# rule of random_gamma is that of the distribution, not of the sample.
TRUSTED = FLAT | {
    "add", "add_any", "broadcast_in_dim", "complex", "concatenate", "conj", "conv_general_dilated",
    "convert_element_type", "copy", "copy_p", "cumsum", "dot_general", "dynamic_slice",
    "dynamic_update_slice", "expand_dims", "fft", "gather", "imag", "mul", "neg", "pad", "psum",
    "ragged_dot_general", "random_gamma", "real", "reduce_precision", "reduce_sum", "reshape", "rev",
    "scatter", "scatter-add", "select_n", "slice", "split", "squeeze", "stop_gradient", "sub", "transpose",
}
_ELEMENTWISE = CALLS | CUSTOM | {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh", "digamma",
    "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac",
    "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "not", "or", "polygamma", "pow", "regularized_incomplete_beta", "rem", "round", "rsqrt",
    "select_n", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor", "zeta",
}
_SYMMETRIC = {"cholesky", "eigh"}  # of a symmetric matrix, that a change has to leave so
# fmt: on


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
    loose: float = 1.0
    """How much of the usual allowance a loop gets that iterates until it is good enough."""

    def at(self, ins: Values, cts: Values, rules: Values, seeds: Sequence[Any]) -> "_Piece":
        """Return the piece at other values; inputs with one seed are moved together."""
        directions = []
        for k, seed in zip(self.wanted, seeds, strict=True):
            x, rng = doubled(ins[k]), np.random.default_rng(seed)
            signs = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1, x.shape)
            if np.iscomplexobj(x):
                signs = signs * np.exp(2j * np.pi * rng.uniform(size=x.shape))
            # One in proportion to each element, so that none leaves its domain, and one alike for all.
            scale = min(math.sqrt(np.mean(np.abs(x) ** 2)) or 1.0, 1.0) if x.size else 1.0
            d = np.stack([np.abs(x) * signs, scale * np.flip(signs)])
            directions.append(self.symmetric(d))
        cts, rules = list(map(doubled, cts)), list(map(doubled, rules))
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
            ratio = np.abs(doubled(self.ins[k])) / np.where(d == 0, np.inf, np.abs(d))
            found = np.maximum(found, ratio.reshape(2, -1).max(1, initial=0))
        return found


class _Slopes(NamedTuple):
    """The numerical side: sums over the results."""

    change: np.ndarray
    """[directions, steps, signs, groups]"""
    size: np.ndarray
    """[directions, steps, groups], of each result's change"""
    uneven: np.ndarray
    """[directions, steps, groups], of what of each result's change does not turn with the direction"""
    value: np.ndarray
    """[groups]"""


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
        result: np.ndarray = np.abs(self.mismatch) > self.allowed
        return result


def piece_of(
    function: Callable[..., Any], avals: Sequence[Any], wanted: Sequence[int], outs: Sequence[int]
) -> _Piece:
    """Return a part of the function, to be compared at values that are still to be given."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    closed = jax.make_jaxpr(lambda *ins: [found[k] for found in [function(*ins)] for k in outs])(*shapes)
    eqns = list(all_eqns(closed.jaxpr))
    names = frozenset(e.primitive.name for e in eqns)
    seen: list[Any] = [atom.aval for e in eqns for atom in [*e.invars, *e.outvars]]
    shape = closed.out_avals[0].shape if closed.out_avals else ()
    alone = len(outs) == 1 and names <= _ELEMENTWISE and all(avals[k].shape == shape for k in wanted)
    alone = alone and all(getattr(a, "shape", None) in (shape, ()) for a in seen)
    eps = max((float(jnp.finfo(a.dtype).eps) for a in seen if inexact(a)), default=_EPS)
    key = f"{wanted} {closed}" if names <= _ELEMENTWISE else str(id(closed))
    groups = min(_GROUPS, max(math.prod(shape), 1)) if alone else 1
    return _Piece(closed, tuple(wanted), groups, eps, names, key, [], [], [], [])


def slopes_of(pieces: Sequence[_Piece]) -> Callable[[Sequence[_Piece]], list[_Slopes | None]]:
    """Return the function that moves the inputs of such pieces in float64; None is of one that refuses."""
    alike: dict[str, list[int]] = {}
    for n, piece in enumerate(pieces):
        alike.setdefault(piece.key, []).append(n)

    def program(data: Values) -> Values:
        found: Values = []
        for (first, *_), one in zip(alike.values(), data, strict=True):
            try:
                found.append(jax.vmap(lambda *a, piece=pieces[first]: _moved(piece, *a))(*one))
            except (TypeError, ValueError, NotImplementedError):  # jax's refusals to batch an operation
                found.append(None)
        return found

    size = sum(math.prod(a.shape) for piece in pieces for a in piece.function.out_avals)
    compiled = compiled_once(program, 4 * len(_STEPS) * size, rules=False)

    def run(pieces: Sequence[_Piece]) -> list[_Slopes | None]:
        results: list[_Slopes | None] = [None] * len(pieces)
        with jax.enable_x64(True):
            data = [(list(map(doubled, p.ins)), p.cts, p.directions) for p in pieces]
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


def _moved(piece: _Piece, ins: Values, cts: Values, directions: Values) -> tuple[Any, ...]:
    """Return the changes of a piece's results along the directions, times their cotangents."""
    evaluate = jaxpr_as_fun(widen(piece.function).jaxpr)
    base = evaluate(*ins)

    def summed(terms: Values) -> Any:
        return sum(_grouped(jnp, t, piece.groups) for t in terms)

    def at(point: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        def terms(step: Array) -> Values:
            full = list(ins)
            for k, d in zip(piece.wanted, directions, strict=True):
                full[k] = full[k] + (step.astype(d.dtype) * d[point[1]]).astype(full[k].dtype)
            return [(g * (y - b)).real for g, y, b in zip(cts, evaluate(*full), base, strict=True)]

        both = lax.map(terms, jnp.stack([point[0], -point[0]]))
        size = summed([jnp.abs(t).max(0) for t in both])
        return (
            jnp.stack([summed([t[n] for t in both]) for n in (0, 1)]),
            size,
            summed([jnp.abs(t.sum(0)) for t in both]),
        )

    steps, which = np.broadcast_arrays(_STEPS, np.arange(2)[:, None])
    points = (jnp.asarray(steps.ravel()), jnp.asarray(which.ravel()))
    fit = max(1, _BATCH // max(2 * sum(np.size(v) for v in [*ins, *base]), 1))
    try:
        found = lax.map(at, points, batch_size=fit) if fit < steps.size else jax.vmap(at)(points)
    except (NotImplementedError, ValueError):  # a callback that does not say how it is mapped
        found = lax.map(at, points)
    value = summed([jnp.abs(g * b) for g, b in zip(cts, base, strict=True)])
    return *(v.reshape(*steps.shape, *v.shape[1:]) for v in found), value


def _grouped(xp: Any, terms: Any, groups: int) -> Any:
    """Return the sums of consecutive elements, [groups]."""
    return xp.pad(terms.ravel(), (0, -terms.size % groups)).reshape(groups, -1).sum(1)


def _judged(piece: _Piece, slopes: _Slopes, rules: Values, eps: float) -> _Verdict:
    """Judge a rule by the numerical slopes at all steps; eps: of the type in which the rule was computed."""
    h, own = _STEPS[:, None], piece.along(rules)
    solver = piece.loose if "while" in piece.within else 0.0  # its value is good to a tolerance only
    with np.errstate(all="ignore"):
        up, down = slopes.change[:, :, 0], slopes.change[:, :, 1]
        rounding = piece.eps if any("callback" in name for name in piece.within) else _EPS
        sizes, terms = slopes.size / h, piece.along(rules, absolute=True)
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
        # At a kink a rule may be anything between the slopes on the two sides, for each result.
        kink = _KINK if rounding == _EPS else _COARSE_KINK
        central = ((up - down) / (2 * h) - own[:, None])[:, kink]
        # What is uneven at the finest steps alone is noise: a kink's is so much less there.
        ragged = np.abs(up + down)[:, -2:].max(1, keepdims=True) / 2 + 4 * rounding * slopes.value
        margin = allowed[:, None] + 2 * (ragged + displaced[:, kink]) / h[kink]
        between = (np.abs(central) <= margin + slopes.uneven[:, kink] / (2 * h[kink])).any(1)
        allowed += 10 * np.where(believable, bar, 0)
        clear = bool((believable & (~between | (np.abs(mismatch) <= allowed))).all())
        return _Verdict(own, np.where(between | ~believable, 0, mismatch), allowed, clear)


def verdict_of(piece: _Piece, slopes: _Slopes) -> _Verdict:
    """Return the verdict on a piece's rule, with what rounding explains allowed for.

    Under suspicion a rule is run again, in its own types at inputs a rounding beside, and without rounding.
    One that is right without is wrong in its own type only where rounding explains nothing near what it says.
    """
    verdict, eps, function = _judged(piece, slopes, piece.rules, piece.eps), piece.eps, piece.function

    def pull(ins: Values, cts: Values) -> Values:
        return pulled_back(jaxpr_as_fun(function), ins, piece.wanted, dict(enumerate(cts)))

    cts = [jnp.asarray(g, a.dtype) for g, a in zip(piece.cts, function.out_avals, strict=True)]

    def unrounded() -> Values:
        rule = jax.make_jaxpr(pull)(list(piece.ins), cts)
        with jax.enable_x64(True):
            return list(map(doubled, jaxpr_as_fun(widen(rule).jaxpr)(*map(doubled, piece.ins), *piece.cts)))

    if not verdict.wrong.any():
        # Half precision explains nearly all; its rule in float64 may be off by its constants' rounding.
        return verdict if eps < _COARSE else _judged(piece, slopes, unrounded(), _COARSE)
    rng, run, spread = np.random.default_rng(0), jax.jit(pull), np.zeros_like(verdict.slope)
    for _ in range(3):
        ins = list(piece.ins)
        for k in piece.wanted:
            near = np.asarray(doubled(ins[k]) * (1 + eps * rng.choice([-1.0, 1.0], np.shape(ins[k]))))
            ins[k] = jnp.asarray(piece.symmetric(near), function.in_avals[k].dtype)
        apart = piece.along(list(map(doubled, run(ins, cts)))) - verdict.slope
        spread = np.maximum(spread, np.nan_to_num(np.abs(apart)))
    allowed = verdict.allowed + 4 * spread
    if eps == _EPS:
        return verdict._replace(allowed=allowed)
    reach = max(1.0, *(float(np.abs(d).max(initial=0)) for d in piece.directions))
    scale = reach * sum(float(np.abs(g).sum()) for g in piece.cts) + slopes.value
    gross = 1e-2 * np.abs(verdict.slope) + 1e3 * eps * scale
    wrong = _judged(piece, slopes, unrounded(), _EPS).wrong
    return verdict._replace(allowed=np.where(wrong, allowed, allowed + gross))


def compared(flat: Flat, trace: Trace, seed: int, loose: float) -> tuple[dict[int, tuple[str, str]], int]:
    """Return the operations whose rule is wrong or to be looked into, and the number of right ones."""
    pieces: dict[int, _Piece] = {}
    checked = 0
    for n, op in enumerate(flat.ops):
        rules, cts = trace.rules[n], trace.cts[n]
        if n not in trace.reached or n in trace.failures or not finite([*rules.values(), *cts.values()]):
            continue
        wanted = flat.wanted(op)
        if op.name == "custom_linear_solve":  # its value follows from what solve holds, its rule from matvec
            wanted = [k for k in wanted if k >= sum(op.eqn.params["const_lengths"])]
        ins = [trace.values.get(s) for s in op.ins]
        moved = any(map(np.any, cts.values())) and wanted and finite(ins[k] for k in wanted)
        if op.name in TRUSTED or not moved:
            checked += 1
            continue
        avals = [atom.aval for atom in op.eqn.invars]
        piece = piece_of(lambda *a, op=op: bind(op.eqn, a), avals, wanted, list(cts))
        seeds = [[seed, op.ins[k]] for k in wanted]
        piece = piece._replace(loose=loose)
        pieces[n] = piece.at(ins, list(cts.values()), [rules[k] for k in wanted], seeds)
    found: dict[int, tuple[str, str]] = {}
    for (n, piece), slopes in zip(pieces.items(), _evaluated(list(pieces.values())), strict=True):
        verdict = slopes and verdict_of(piece, slopes)
        if verdict and verdict.wrong.any():
            worst = np.unravel_index(np.argmax(np.abs(verdict.mismatch) * verdict.wrong), verdict.slope.shape)
            rule, slope = verdict.slope[worst], verdict.slope[worst] + verdict.mismatch[worst]
            kind = "wrong rule" if any(map(np.any, piece.rules)) else "stopped"
            digits = next((d for d in range(3, 17) if f"{rule:.{d}g}" != f"{slope:.{d}g}"), 17)
            found[n] = kind, f"slope {rule:.{digits}g} by its rule, {slope:.{digits}g} numerically"
        elif flat.ops[n].name in ("cond", "scan", "while") and not (verdict and verdict.clear):
            found[n] = "", ""
        else:
            checked += verdict is not None
    return found, checked


def _evaluated(pieces: list[_Piece]) -> list[_Slopes | None]:
    """Return the slopes of all pieces: by one program, or where that fails by one for each."""
    try:
        return slopes_of(pieces)(pieces) if pieces else []
    except jax.errors.JaxRuntimeError:  # of a callback
        return [None] if len(pieces) == 1 else [found for piece in pieces for found in _evaluated([piece])]
