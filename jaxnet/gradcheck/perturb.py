"""How a function's value changes where its input is moved, with only what follows computed again.

`moved` walks through a function's jaxpr. Of each value it knows what it is at the point itself, in which
region of it the move shows (at one position along some axes, everywhere along the others), what it is there
now, and by how much it has changed. The change is carried through sums and products on its own, so that it is
not lost in what did not move: a change of 1e-20 in one term of a sum of 1 is known to all its digits. Under
`vmap` over many moves the point itself is computed once, and a region is often one column or one number.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr

from jaxnet.gradcheck.analytic import evaluate
from jaxnet.gradcheck.differences import Move, difference
from jaxnet.gradcheck.interpret import bind, called, walk
from jaxnet.gradcheck.pieces import decided, decisions
from jaxnet.gradcheck.regions import Patch, Region, Regions, Value, is_float

Numbers = Array | np.ndarray

# fmt: off
_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy", "copy_p",
    "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "polygamma", "pow",
    "real", "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt",
    "square", "stop_gradient", "sub", "tan", "tanh", "xor", "zeta",
}
_REDUCTIONS = {
    "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod",
    "reduce_sum", "reduce_xor",
}
_ALONG_AXIS = {
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum",
}
_CONTROL = {"cond", "custom_linear_solve", "scan", "while"}
# The operands in which an operation is linear, all of them together.
_LINEAR_IN = {
    "complex": (0, 1), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "fft": (0,), "gather": (0,),
    "pad": (0, 1), "reduce_window_sum": (0,), "scatter-add": (0, 2), "triangular_solve": (1,),
}
# fmt: on


class Change(NamedTuple):
    """What a move makes of a function's one value."""

    change: Numbers
    """Complex after a complex move; NaN where a while loop did not end."""
    error: Numbers
    """How far off rounding makes it, as far as it can be followed."""
    value: Numbers
    crossed: Numbers
    """Whether a decision of the function is another one than at the point itself."""
    trips: Numbers
    """The most that any while loop made."""


def replaced(jaxpr: ClosedJaxpr, leaf: int, sharp: bool) -> Callable[..., Change]:
    """Return `change(index, new, limit, consts, args)`: one element of args[leaf] is replaced by `new`.

    index: into the flattened leaf. limit: as for `moved`. sharp: whether the change and its rounding are
    followed through what does not change; else what changes is subtracted from what it was, which costs a
    fraction.
    """

    def change(index: Array, new: Array, limit: Any, consts: Sequence[Any], args: Sequence[Array]) -> Change:
        shape = np.shape(args[leaf])
        walker = _Walk(limit, sharp)
        region = walker.unravel((jnp.asarray(index, jnp.int32),), (int(np.prod(shape)),), shape)
        base, slab = jnp.asarray(args[leaf]), jnp.full((1,) * len(shape), new)
        values = [Value(arg) for arg in args]
        patch = walker.start(region, slab, walker.cut(base, region))
        values[leaf] = Value(base, patch if sharp else patch._replace(error=None))
        return walker.outcome(jaxpr, consts, values)

    return change


def moved(
    jaxpr: ClosedJaxpr, limit: Any, consts: Sequence[Any], args: Sequence[Array], new: Sequence[Array]
) -> Change:
    """Return how a jaxpr's one value changes from args, whose first ones become `new`.

    A complex move goes through all that follows from it, real-only operations by their real part where that
    decides between analytic branches; TypeError for others. limit: trips of a while loop, after which it is
    left.
    """
    values, walker = [Value(arg) for arg in args], _Walk(limit)
    for number, leaf in enumerate(new):
        base = jnp.asarray(args[number])
        values[number] = Value(base, walker.start((None,) * base.ndim, leaf, base))
    return walker.outcome(jaxpr, consts, values)


class _Walk(Regions):
    """A walk through a jaxpr."""

    def __init__(self, limit: Any, sharp: bool = True) -> None:
        super().__init__()
        self.limit, self.sharp = jnp.asarray(limit, jnp.int32), sharp
        self.crossed: Any = jnp.bool_(False)
        self.trips: Any = jnp.int32(0)

    def outcome(self, jaxpr: ClosedJaxpr, consts: Sequence[Any], values: Sequence[Value]) -> Change:
        (out,) = self.run(jaxpr.jaxpr, consts, values)
        base = jnp.asarray(out.base)
        if out.patch is None:
            nothing = jnp.zeros_like(base)
            return Change(nothing, nothing, base, self.crossed, self.trips)
        _, slab, change, error = out.patch
        lost = (self.trips >= self.limit[0]) | ~jnp.isfinite(base)
        error = jnp.zeros_like(base) if error is None else error
        return Change(jnp.where(lost, jnp.nan, change), error, slab, self.crossed, self.trips)

    def start(self, region: Region, slab: Array, base: Array) -> Patch:
        return Patch(region, slab, slab - base, None if jnp.iscomplexobj(slab) else jnp.zeros_like(slab))

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value]) -> list[Value]:
        def rule(eqn: Any, operands: list[Any]) -> list[Value]:
            return self.step(eqn, [o if isinstance(o, Value) else Value(o) for o in operands])

        found = walk(jaxpr, [Value(const) for const in consts], values, rule)
        return [value if isinstance(value, Value) else Value(value) for value in found]

    def step(self, eqn: Any, operands: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if (inner := called(eqn)) is not None:
            return self.run(inner.jaxpr, inner.consts, operands)
        if all(operand.patch is None for operand in operands):
            return [Value(base) for base in bind(eqn, [operand.base for operand in operands])]
        if name in _CONTROL:
            return self.control(eqn, operands)
        bases = bind(eqn, [operand.base for operand in operands])
        if name in _ELEMENTWISE:
            patches = self.elementwise(eqn, operands, bases)
        elif name in _REDUCTIONS:
            patches = self.reduction(eqn, operands[0], bases[0])
        elif name in _ALONG_AXIS:
            patches = self.along_axis(eqn, operands, bases)
        else:
            patches = getattr(self, name, self.dense)(eqn, operands, bases)
        return [Value(base, patch) for base, patch in zip(bases, patches, strict=True)]

    def control(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Run a loop or a branch twice: its decisions need not be the same."""
        new = [self.at(operand, (None,) * np.ndim(operand.base)) for operand in operands]
        after = decided(eqn, new, self.limit)
        before = decided(eqn, [operand.base for operand in operands], self.limit)
        assert after is not None and before is not None
        self.crossed = self.crossed | (after.piece != before.piece)
        self.trips = jnp.maximum(self.trips, after.trips)
        return [
            Value(base, self.whole(operands, slab, base))
            for slab, base in zip(after.values, before.values, strict=True)
        ]

    def whole(self, operands: list[Value], slab: Array, base: Any) -> Patch:
        """Return a result that shows everywhere, of an operation that is not known better.

        Its error: a few roundings of its largest value, and its operands' errors, in the changes' ratio.
        """
        change = _difference(slab, base)
        region = (None,) * np.ndim(slab)
        moves = [o.patch for o in operands if o.patch is not None and is_float(o.patch.change)]
        blurs = [move.error for move in moves if move.error is not None]
        if len(blurs) < len(moves) or not is_float(change):
            return Patch(region, slab, change, jnp.zeros_like(change) if is_float(change) else None)
        error = 16 * _rounding(slab, jnp.max(jnp.abs(base), initial=0) + jnp.max(jnp.abs(slab), initial=0))
        for move, blurred in zip(moves, blurs, strict=True):
            size = jnp.max(jnp.abs(move.change), initial=0)
            blur = jnp.max(blurred, initial=0) + _rounding(move.slab, jnp.max(jnp.abs(move.slab), initial=0))
            error = error + _ratio(jnp.max(jnp.abs(change), initial=0), size) * blur
        still = _all([jnp.all(move.change == 0) for move in moves])
        return Patch(region, slab, change, jnp.broadcast_to(jnp.where(still, 0, error), jnp.shape(slab)))

    def compare(self, eqn: Any, new: list[Any], slabs: list[Any], old: list[Any], bases: list[Any]) -> None:
        """Note whether an equation decides as it does at the point itself."""
        for one, other in zip(decisions(eqn, new, slabs), decisions(eqn, old, bases), strict=True):
            self.crossed = self.crossed | jnp.any(one != other)

    # Rules: each returns the patches of an equation's results, some operand having one

    def dense(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        everywhere = [(None,) * np.ndim(operand.base) for operand in operands]
        new = [self.at(operand, region) for operand, region in zip(operands, everywhere, strict=True)]
        slabs = evaluate(eqn, new)
        self.compare(eqn, new, slabs, [operand.base for operand in operands], bases)
        moving = _LINEAR_IN.get(eqn.primitive.name, ())
        fixed = [number for number, o in enumerate(operands) if o.patch is not None and number not in moving]
        if not moving or fixed:
            return [self.whole(operands, slab, base) for slab, base in zip(slabs, bases, strict=True)]

        def carried(find: Callable[[Value, Region], Any]) -> list[Any]:
            pairs = enumerate(zip(operands, everywhere, strict=True))
            return evaluate(eqn, [find(o, region) if n in moving else o.base for n, (o, region) in pairs])

        changes = carried(self.change)
        errors = carried(self.error) if self.follows(operands) else [None] * len(slabs)
        rows = zip(slabs, changes, errors, strict=True)
        return [Patch((None,) * np.ndim(slab), slab, change, error) for slab, change, error in rows]

    def elementwise(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        region = self.join(operands, bases[0].shape)
        new, old = (
            [self.at(o, region) for o in operands],
            [self.cut_or_scalar(o.base, region) for o in operands],
        )
        (slab,) = evaluate(eqn, new)
        base = self.cut(bases[0], region)
        self.compare(eqn, new, [slab], old, [base])
        plain = _difference(slab, base)
        if not is_float(slab) and not jnp.iscomplexobj(slab):
            return [Patch(region, slab, plain, None)]
        if not self.sharp:
            return [Patch(region, slab, plain, None)]
        errors = [self.error(o, region) for o in operands] if self.follows(operands) else None
        changes = [self.change(operand, region) for operand in operands]
        by_difference: Any = None
        if errors is not None:
            by_difference = 4 * _rounding(slab, jnp.abs(slab) + jnp.abs(base))
            for operand, one, move, error in zip(operands, new, changes, errors, strict=True):
                if operand.patch is not None and is_float(one):
                    blur = error + _rounding(one, jnp.abs(one))
                    by_difference = by_difference + _ratio(jnp.abs(plain), jnp.abs(move)) * blur
            still = [c == 0 for c, o in zip(changes, operands, strict=True) if o.patch is not None]
            by_difference = jnp.where(_all(still), 0, by_difference)
        carried = self.carried(eqn, operands, new, old, slab, base, changes, errors)
        if carried is None:
            return [Patch(region, slab, plain, by_difference)]
        # A product of nothing with infinity is no number; its difference may be.
        change, error, apt = carried
        apt = apt & jnp.isfinite(change)
        if error is not None:
            error = jnp.where(apt, error + _rounding(slab, jnp.abs(change)), by_difference)
        return [Patch(region, slab, jnp.where(apt, change, plain), error)]

    def carried(
        self,
        eqn: Any,
        operands: list[Value],
        new: list[Any],
        old: list[Any],
        slab: Any,
        base: Any,
        c: list[Any],
        e: list[Any] | None,
    ) -> tuple[Any, Any, Any] | None:
        """Return a change, its error, and where they hold, from the operands' changes c and their errors e.

        For sums, products and what is linear; None for other operations.
        """
        name = eqn.primitive.name
        everywhere = np.True_
        if name in ("add", "add_any", "sub"):
            change = c[0] - c[1] if name == "sub" else c[0] + c[1]
            return change, e and e[0] + e[1], everywhere
        if name == "mul":
            return c[0] * new[1] + old[0] * c[1], e and e[0] * abs(new[1]) + abs(old[0]) * e[1], everywhere
        if name == "div":
            change = (c[0] - base * c[1]) / new[1]
            error = e and (e[0] + abs(base) * e[1] + _rounding(base, abs(base * c[1]))) / abs(new[1])
            return change, error, everywhere
        if name == "square" or (name == "integer_pow" and eqn.params["y"] == 2):
            total = 2 * old[0] + c[0]
            return c[0] * total, e and e[0] * abs(total), everywhere
        if name in ("neg", "copy", "copy_p", "real", "imag", "conj", "stop_gradient") or (
            name == "convert_element_type"
            and jnp.issubdtype(jnp.result_type(old[0]), jnp.inexact)
            and jnp.finfo(eqn.params["new_dtype"]).eps <= jnp.finfo(jnp.result_type(old[0])).eps
        ):
            return evaluate(eqn, c)[0], e and e[0].astype(jnp.float64), everywhere
        if name == "select_n":
            same = new[0] == old[0]
            chosen = evaluate(eqn, [new[0], *c[1:]])[0]
            return chosen, e and evaluate(eqn, [new[0], *e[1:]])[0], same
        if e is not None and all(map(is_float, old)):
            values = zip(old, new, c, strict=True)
            moves = [Move(a, b, move, base, slab) for a, b, move in values]
            change = difference(name, eqn.params, moves, [o.patch is not None for o in operands])
            if change is not None:
                error = 8 * _rounding(base, abs(change))
                for move, blur in zip(c, e, strict=True):
                    error = error + _ratio(abs(change), abs(move)) * blur
                return change, error, everywhere
        return None

    def reduction(self, eqn: Any, operand: Value, out: Any) -> list[Patch]:
        axes, patch = eqn.params["axes"], _of(operand)
        kept = tuple(p for axis, p in enumerate(patch.region) if axis not in axes)
        if eqn.primitive.name == "reduce_sum":
            # In its own type: jax would make int64 of int32.
            change, error = jnp.sum(patch.change, axes, dtype=patch.change.dtype), patch.error
            if error is not None:
                error = jnp.sum(error + _rounding(change, jnp.abs(patch.change)), axes)
            return [Patch(kept, self.cut(out, kept) + change, change, error)]
        region = tuple(None if axis in axes else p for axis, p in enumerate(patch.region))
        new, old, base = self.at(operand, region), self.cut(operand.base, region), self.cut(out, kept)
        (slab,) = evaluate(eqn, [new])
        self.compare(eqn, [new], [slab], [old], [base])
        if eqn.primitive.name in ("reduce_max", "reduce_min") and patch.error is not None:
            # As long as the largest stays where it is, it changes as that one does.
            extreme = jnp.max if eqn.primitive.name == "reduce_max" else jnp.min
            there = old == jnp.expand_dims(base, axes)
            nowhere = -jnp.inf if eqn.primitive.name == "reduce_max" else jnp.inf
            move, blur = self.change(operand, region), self.error(operand, region)
            stays = extreme(jnp.where(there, new, nowhere), axes) == slab
            change = jnp.where(stays, extreme(jnp.where(there, move, nowhere), axes), slab - base)
            error = jnp.max(jnp.where(there, blur, 0), axes)
            away = jnp.max(blur + _rounding(new, jnp.abs(new)), axes)
            return [Patch(kept, slab, change, jnp.where(stays, error, away))]
        found = self.whole([operand], slab, base)
        return [Patch(kept, slab, found.change, found.error)]

    def along_axis(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        along = eqn.params["axis"]
        region = self.join(operands, bases[0].shape)
        region = tuple(None if axis == along else p for axis, p in enumerate(region))
        new, old = [self.at(o, region) for o in operands], [self.cut(o.base, region) for o in operands]
        slabs, cuts = evaluate(eqn, new), [self.cut(base, region) for base in bases]
        self.compare(eqn, new, slabs, old, cuts)
        if eqn.primitive.name == "cumsum":
            changes = evaluate(eqn, [self.change(operands[0], region)])
            errors = evaluate(eqn, [self.error(operands[0], region)]) if self.follows(operands) else [None]
            return [Patch(region, *slabs, *changes, *errors)]
        found = [self.whole(operands, slab, base) for slab, base in zip(slabs, cuts, strict=True)]
        return [Patch(region, patch.slab, patch.change, patch.error) for patch in found]

    def sort(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        axis = eqn.params["dimension"]
        joined = self.join(operands, bases[0].shape)
        region = tuple(None if number == axis else p for number, p in enumerate(joined))
        patches = [self.widened(o, region) if o.patch is not None else None for o in operands]
        new, old = [self.at(o, region) for o in operands], [self.cut(o.base, region) for o in operands]
        places = lax.broadcasted_iota(jnp.int32, new[0].shape, axis)

        def ordered(arrays: list[Any], along: list[Any]) -> list[Any]:
            options = {key: eqn.params[key] for key in ("dimension", "is_stable", "num_keys")}
            return list(lax.sort([*(jnp.asarray(a) for a in arrays), *along], **options))

        moves = [self.change(o, region) for o in operands]
        errors = [
            self.error(o, region) if p and p.error is not None else None
            for o, p in zip(operands, patches, strict=True)
        ]
        along = [*moves, *(error for error in errors if error is not None), places]
        found, before = ordered(new, along), ordered(old, [places])
        # In the same order everything changes as it did before it was sorted.
        same = jnp.all(found[-1] == before[-1], axis=axis, keepdims=True)
        self.crossed = self.crossed | jnp.any(~same)
        count = len(operands)
        blurs = iter(found[2 * count : -1])
        result = []
        for slab, base, move, error in zip(
            found[:count], before, found[count : 2 * count], errors, strict=False
        ):
            change = jnp.where(same, move, _difference(slab, base)) if slab.dtype != bool else slab != base
            blur = (
                None
                if error is None
                else jnp.where(
                    same, next(blurs), jnp.max(error + _rounding(slab, jnp.abs(slab)), axis, keepdims=True)
                )
            )
            result.append(Patch(region, slab, change, blur))
        return result

    def broadcast_in_dim(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        if len(operands) > 1:
            return self.dense(eqn, operands, bases)
        patch, axes = _of(operands[0]), eqn.params["broadcast_dimensions"]
        region: list[Array | None] = [None] * len(eqn.params["shape"])
        shape = list(eqn.params["shape"])
        for axis, position in zip(axes, patch.region, strict=True):
            if position is not None:
                region[axis], shape[axis] = position, 1
        return [_both(patch, tuple(region), lambda array: lax.broadcast_in_dim(array, shape, axes))]

    def reshape(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        if len(operands) > 1 or (eqn.params.get("dimensions") and eqn.primitive.name == "reshape"):
            return self.dense(eqn, operands, bases)
        old, new, region = operands[0].base.shape, bases[0].shape, _of(operands[0]).region
        wide, result = list(region), list[Array | None]()
        for before, after in _groups(old, new):
            positions = tuple(p for p in (region[axis] for axis in before) if p is not None)
            if positions and len(positions) == sum(old[axis] > 1 for axis in before):
                was, becomes = tuple(old[axis] for axis in before), tuple(new[axis] for axis in after)
                result += self.unravel(positions, was, becomes)
            else:
                for axis in before:
                    wide[axis] = None
                result += [None] * len(after)
        shape = [n if p is None else 1 for p, n in zip(result, new, strict=True)]
        widened = self.widened(operands[0], tuple(wide))
        return [_both(widened, tuple(result), lambda array: array.reshape(shape))]

    squeeze = reshape
    expand_dims = reshape

    def transpose(self, eqn: Any, operands: list[Value], _: list[Any]) -> list[Patch]:
        patch, order = _of(operands[0]), eqn.params["permutation"]
        region = tuple(patch.region[axis] for axis in order)
        return [_both(patch, region, lambda array: array.transpose(order))]

    def rev(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        patch, axes = _of(operands[0]), eqn.params["dimensions"]
        region = tuple(
            self.derive(_from_end, (p,), n) if axis in axes and p is not None else p
            for axis, (p, n) in enumerate(zip(patch.region, bases[0].shape, strict=True))
        )
        return [_both(patch, region, lambda array: lax.rev(array, axes))]

    def slice(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        strides = eqn.params["strides"] or (1,) * bases[0].ndim
        return [self.window(operands[0], eqn.params["start_indices"], strides, bases[0])]

    def split(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        axis, sizes = int(eqn.params["axis"]), [int(n) for n in eqn.params["sizes"]]
        starts = [
            [sum(sizes[:number]) if a == axis else 0 for a in range(base.ndim)]
            for number, base in enumerate(bases)
        ]
        return [
            self.window(operands[0], start, (1,) * base.ndim, base)
            for start, base in zip(starts, bases, strict=True)
        ]

    def window(self, value: Value, starts: Sequence[int], strides: Sequence[int], out: Any) -> Patch:
        patch, inside, region = _of(value), np.True_, list[Array | None]()
        cuts: list[Callable[[Array], Array]] = []
        for axis, (position, size) in enumerate(zip(patch.region, out.shape, strict=True)):
            start, stride = starts[axis], strides[axis]
            if position is None:
                where = start, start + (size - 1) * stride + 1, stride, axis
                cuts.append(functools.partial(_cut_out, where))
                region.append(None)
            else:
                moved, within = self.derive(_within, (position,), start, stride, size)
                inside = inside & within
                # A window over the whole axis leaves the position what it was.
                whole = size == value.base.shape[axis]
                region.append(position if whole else moved if size > 1 else None)

        def windowed(array: Array) -> Array:
            for cut in cuts:
                array = cut(array)
            return array

        there = tuple(region)
        found = _both(patch, there, windowed)
        if inside is np.True_:
            return found
        error = None if found.error is None else jnp.where(inside, found.error, 0)
        slab = jnp.where(inside, found.slab, self.cut(out, there))
        return Patch(there, slab, jnp.where(inside, found.change, 0), error)

    def concatenate(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        axis = int(eqn.params["dimension"])
        patched = [number for number, operand in enumerate(operands) if operand.patch is not None]
        start = sum(operand.base.shape[axis] for operand in operands[: patched[0]])
        first = operands[patched[0]]
        narrow = first.base.shape[axis] == 1 or _of(first).region[axis] is not None
        if len(patched) == 1 and narrow and bases[0].shape[axis] > 1:
            region = list(_of(first).region)
            old: tuple[Any, ...] = () if region[axis] is None else (region[axis],)
            region[axis] = self.derive(_from_start, old, start)
            return [_both(_of(first), tuple(region), lambda array: array)]
        others = [p for n, p in enumerate(self.join_beside(operands, axis)) if n != axis]
        joined = (*others[:axis], None, *others[axis:])
        finds = (self.at, self.change, self.error) if self.follows(operands) else (self.at, self.change)
        given = [[find(operand, joined) for operand in operands] for find in finds]
        if len(given) > 2:  # errors are sizes, of complex numbers too
            given[2] = [jnp.abs(error) for error in given[2]]
        parts = [evaluate(eqn, some)[0] for some in given]
        return [Patch(joined, parts[0], parts[1], parts[2] if len(parts) > 2 else None)]

    def dot_general(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        contracted, batched = eqn.params["dimension_numbers"]
        patched = [side for side in (0, 1) if operands[side].patch is not None]
        regions: list[list[Array | None]] = [[None] * operand.base.ndim for operand in operands]
        for pairs in (contracted, batched):
            for axes in zip(*pairs, strict=True):
                found = [_of(operands[side]).region[axes[side]] for side in patched]
                if all(position is found[0] for position in found):
                    regions[0][axes[0]] = regions[1][axes[1]] = found[0]
        free = [
            [axis for axis in range(operands[s].base.ndim) if axis not in (*contracted[s], *batched[s])]
            for s in (0, 1)
        ]
        if len(patched) == 1:  # of two, each would show in all rows or columns of the other's
            (side,) = patched
            for axis in free[side]:
                regions[side][axis] = _of(operands[side]).region[axis]
        result = tuple(
            [regions[0][axis] for axis in (*batched[0], *free[0])] + [regions[1][axis] for axis in free[1]]
        )
        there = [tuple(region) for region in regions]
        change, error = self.bilinear(operands, there[0], there[1], lambda a, b: _dot(eqn, a, b))
        # Of the sum over the contracted axes only what is in the region changes.
        return [Patch(result, self.cut(bases[0], result) + change, change, error)]

    def conv_general_dilated(self, eqn: Any, operands: list[Value], bases: list[Any]) -> list[Patch]:
        everywhere = (None,) * bases[0].ndim
        change, error = self.bilinear(operands, everywhere, everywhere, lambda a, b: evaluate(eqn, [a, b])[0])
        return [Patch(everywhere, bases[0] + change, change, error)]

    def bilinear(
        self, operands: list[Value], left: Region, right: Region, product: Callable[[Any, Any], Any]
    ) -> tuple[Any, Any]:
        """Return the change of a product, and its error, in regions of its operands."""
        change: Any = 0
        error: Any = 0
        follows = self.follows(operands)
        one, other = operands
        if one.patch is not None:
            move, factor = self.change(one, left), self.at(other, right)
            change = change + product(move, factor)
            if follows:
                size = self.error(one, left) + _rounding(factor, jnp.abs(move))
                error = error + product(size, jnp.abs(factor))
        if other.patch is not None:
            factor, move = self.cut(one.base, left), self.change(other, right)
            change = change + product(factor, move)
            if follows:
                size = self.error(other, right) + _rounding(factor, jnp.abs(move))
                error = error + product(jnp.abs(factor), size)
        return change, error if follows else None


def _of(value: Value) -> Patch:
    assert value.patch is not None
    return value.patch


def _both(patch: Patch, region: Region, function: Callable[[Array], Array]) -> Patch:
    """Return a patch elsewhere, its values, their change and its error moved there alike."""
    error = None if patch.error is None else function(patch.error)
    return Patch(region, function(patch.slab), function(patch.change), error)


def _cut_out(where: tuple[int, int, int, int], array: Array) -> Array:
    return lax.slice_in_dim(array, *where)


def _difference(slab: Any, base: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(slab), jnp.number):
        return slab - base
    return slab != base if jnp.issubdtype(jnp.result_type(slab), jnp.bool_) else slab


def _rounding(like: Any, size: Any) -> Any:
    """Return how far off the rounding of a number's type makes one of a size."""
    return float(jnp.finfo(jnp.result_type(like)).eps) / 2 * size


def _all(conditions: list[Any]) -> Any:
    return functools.reduce(jnp.logical_and, conditions, jnp.bool_(True))


def _ratio(change: Any, move: Any) -> Any:
    return jnp.where(move > 0, change / jnp.where(move > 0, move, 1), 0)


def _from_end(positions: tuple[Array, ...], size: int) -> Array:
    return size - 1 - positions[0]


def _from_start(positions: tuple[Array, ...], start: int) -> Array:
    return start + positions[0] if positions else jnp.int32(start)


def _within(positions: tuple[Array, ...], start: int, stride: int, size: int) -> tuple[Array, Array]:
    moved, beside = jnp.divmod(positions[0] - start, stride)
    return jnp.clip(moved, 0, size - 1), (beside == 0) & (moved >= 0) & (moved < size)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest runs of axes, before and after a reshape, that hold equally many elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = ([i], []) if i < len(old) else ([], [j])
        i, j = i + len(before), j + len(after)
        while (a := np.prod([old[x] for x in before])) != (b := np.prod([new[x] for x in after])):
            if a < b:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        groups.append((before, after))
    return groups


def _dot(eqn: Any, left: Any, right: Any) -> Any:
    """Return `dot_general`; of contracted axes of size 1 as a product, not as many tiny matrix products."""
    contracted, batched = eqn.params["dimension_numbers"]
    if any(left.shape[axis] > 1 for axis in contracted[0]):
        return evaluate(eqn, [left, right])[0]
    sides = []
    for array, gone, shared in ((left, contracted[0], batched[0]), (right, contracted[1], batched[1])):
        free = [axis for axis in range(array.ndim) if axis not in (*gone, *shared)]
        # Of jax, since jax 0.8 gives a jaxpr's constants as arrays that have no methods.
        moved = jnp.asarray(array).transpose(*shared, *free, *gone)
        sides.append(moved.reshape([array.shape[axis] for axis in (*shared, *free)]))
    rows, columns = (side.ndim - len(batched[0]) for side in sides)
    first = sides[0].reshape(*sides[0].shape, *[1] * columns)
    second = sides[1].reshape(
        *sides[1].shape[: len(batched[0])], *[1] * rows, *sides[1].shape[len(batched[0]) :]
    )
    dtype = eqn.outvars[0].aval.dtype
    return first.astype(jnp.result_type(first, dtype)) * second.astype(jnp.result_type(second, dtype))
