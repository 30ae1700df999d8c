"""A function with one element of its input replaced, from which only what follows is computed again.

`perturbed` walks through a function's jaxpr. Of each value it knows what it is at the point itself, and in
which region of it the replaced element shows: at one position along some axes, everywhere along the others.
Under `vmap` over many elements the former is computed once, and the latter is often one column or one number.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal

Region = tuple[Array | None, ...]  # by axis: the position, or None for everywhere, also where the size is 1

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
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "sort",
}
_CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
}
_ORDERINGS = {
    "argmax", "argmin", "eq", "ge", "gt", "is_finite", "le", "lt", "ne",
}  # of complex numbers: by real part
_EXTREMA = {"max": jnp.greater_equal, "min": jnp.less_equal}
# A convolution of complex numbers takes sums of real and imaginary parts, in which a tiny step is lost.
_REAL_ONLY = {
    "abs", "cholesky", "conj", "conv_general_dilated", "eig", "eigh", "geqrf", "householder_product",
    "imag", "qr", "real", "sign", "svd",
}
# fmt: on


class _Patch(NamedTuple):
    region: Region
    slab: Array  # the values there, of size 1 along the axes that have a position


class _Value(NamedTuple):
    base: Any  # at the point itself
    patch: _Patch | None = None  # where the replaced element shows, if it does


def perturbed(jaxpr: ClosedJaxpr, leaf: int) -> Callable[..., Array]:
    """Return `value(index, new, *args)`: what jaxpr gives for args with one element of args[leaf] replaced.

    index: into the flattened leaf. A complex `new` goes through all that follows from it, real-only
    operations by their real part where that decides between analytic branches; TypeError for others.
    """

    def value(index: Array, new: Array, *args: Array) -> Array:
        shape = np.shape(args[leaf])
        walk = _Walk()
        region = walk.unravel((jnp.asarray(index, jnp.int32),), (int(np.prod(shape)),), shape)
        values = [_Value(arg) for arg in args]
        values[leaf] = _Value(jnp.asarray(args[leaf]), _Patch(region, jnp.full((1,) * len(shape), new)))
        (out,) = walk.run(jaxpr.jaxpr, jaxpr.consts, values)
        return jnp.asarray(out.base, jnp.result_type(new)) if out.patch is None else out.patch.slab

    return value


class _Walk:
    """A walk through a jaxpr. Positions derived alike are one object: that tells they are equal."""

    def __init__(self) -> None:
        self.derived: dict[Hashable, Any] = {}
        self.alive: list[Any] = []  # keeps the ids in `derived` unique

    def derive(self, rule: Callable[..., Any], positions: tuple[Array, ...], *static: Hashable) -> Any:
        key = rule.__name__, tuple(map(id, positions)), static
        if key not in self.derived:
            self.alive.extend(positions)
            self.derived[key] = rule(positions, *static)
        return self.derived[key]

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[_Value]) -> list[_Value]:
        known = dict(zip(jaxpr.constvars, map(_Value, consts), strict=True))
        known.update(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> _Value:
            return (
                _Value(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
                if isinstance(atom, Literal)
                else known[atom]
            )

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self.step(eqn, operands), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def step(self, eqn: Any, operands: list[_Value]) -> list[_Value]:
        name = eqn.primitive.name
        inner = next(
            (eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None
        )
        if name in _CALLS and inner is not None:
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        bases = _bind(eqn, [operand.base for operand in operands])
        if all(operand.patch is None for operand in operands):
            return [_Value(base) for base in bases]
        if name in _ELEMENTWISE:
            patches = self.elementwise(eqn, operands, bases)
        elif name in _REDUCTIONS:
            patches = self.reduction(eqn, operands[0], bases[0])
        elif name in _ALONG_AXIS:
            patches = self.along_axis(eqn, operands, bases)
        else:
            patches = getattr(self, name, self.dense)(eqn, operands, bases)
        return [_Value(base, patch) for base, patch in zip(bases, patches, strict=True)]

    # Regions

    def cut(self, array: Any, region: Region) -> Any:
        """Return an array in a region."""
        if all(position is None for position in region):
            return array
        start = [np.int32(0) if position is None else position for position in region]
        sizes = [n if position is None else 1 for position, n in zip(region, array.shape, strict=True)]
        return lax.dynamic_slice(array, start, sizes)

    def at(self, value: _Value, region: Region) -> Any:
        """Return a value in a region that is no narrower than its patch; size 1 and scalars broadcast."""
        base, patch = value
        if np.ndim(base) != len(region):
            return base if patch is None else patch.slab
        region = tuple(p if n > 1 else None for p, n in zip(region, np.shape(base), strict=True))
        if patch is None:
            return self.cut(base, region)
        wider = [axis for axis, p in enumerate(patch.region) if p is not None and region[axis] is None]
        if not wider:
            return patch.slab
        inside: Any = np.True_
        for axis in wider:
            here = lax.broadcasted_iota(
                jnp.int32, [base.shape[a] if a == axis else 1 for a in range(base.ndim)], axis
            )
            inside = inside & (here == patch.region[axis])
        return jnp.where(inside, patch.slab, self.cut(base, region))

    def join(self, values: Sequence[_Value], shape: tuple[int, ...]) -> Region:
        """Return the smallest region of a shape that holds all patches of what broadcasts to it."""
        region: list[Array | None] = []
        for axis, size in enumerate(shape):
            found = [
                v.patch.region[axis] if np.ndim(v.base) == len(shape) and v.base.shape[axis] == size else None
                for v in values
                if v.patch is not None
            ]
            region.append(found[0] if all(position is found[0] for position in found) else None)
        return tuple(region)

    def unravel(self, positions: tuple[Array, ...], old: tuple[int, ...], new: tuple[int, ...]) -> Region:
        """Return where a position in axes of sizes `old` is once they have sizes `new`."""
        if [n for n in old if n > 1] == [n for n in new if n > 1]:
            kept = iter(positions)
            return tuple(next(kept) if n > 1 else None for n in new)
        found = self.derive(_unravel, positions, tuple(n for n in old if n > 1), new)
        return tuple(p if n > 1 else None for p, n in zip(found, new, strict=True))

    # Rules: each returns the patches of an equation's results, some operand having one

    def dense(self, eqn: Any, operands: list[_Value], _: list[Any]) -> list[_Patch]:
        values = [self.at(operand, (None,) * np.ndim(operand.base)) for operand in operands]
        return [_Patch((None,) * found.ndim, found) for found in _bind(eqn, values)]

    def elementwise(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        region = self.join(operands, bases[0].shape)
        return [_Patch(region, found) for found in _bind(eqn, [self.at(o, region) for o in operands])]

    def reduction(self, eqn: Any, operand: _Value, out: Any) -> list[_Patch]:
        axes, patch = eqn.params["axes"], _of(operand)
        kept = tuple(p for axis, p in enumerate(patch.region) if axis not in axes)
        if eqn.primitive.name == "reduce_sum" and any(patch.region[axis] is not None for axis in axes):
            change = jnp.sum(patch.slab - self.cut(operand.base, patch.region), axes)
            return [_Patch(kept, self.cut(out, kept) + change)]
        region = tuple(None if axis in axes else p for axis, p in enumerate(patch.region))
        return [_Patch(kept, *_bind(eqn, [self.at(operand, region)]))]

    def along_axis(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        along = eqn.params["dimension" if eqn.primitive.name == "sort" else "axis"]
        region = self.join(operands, bases[0].shape)
        region = tuple(None if axis == along else p for axis, p in enumerate(region))
        return [_Patch(region, found) for found in _bind(eqn, [self.at(o, region) for o in operands])]

    def broadcast_in_dim(self, eqn: Any, operands: list[_Value], _: list[Any]) -> list[_Patch]:
        if len(operands) > 1:
            return self.dense(eqn, operands, _)
        patch, axes = _of(operands[0]), eqn.params["broadcast_dimensions"]
        region: list[Array | None] = [None] * len(eqn.params["shape"])
        shape = list(eqn.params["shape"])
        for axis, position in zip(axes, patch.region, strict=True):
            if position is not None:
                region[axis], shape[axis] = position, 1
        return [_Patch(tuple(region), lax.broadcast_in_dim(patch.slab, shape, axes))]

    def reshape(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
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
        return [_Patch(tuple(result), self.at(operands[0], tuple(wide)).reshape(shape))]

    squeeze = reshape

    def transpose(self, eqn: Any, operands: list[_Value], _: list[Any]) -> list[_Patch]:
        patch, order = _of(operands[0]), eqn.params["permutation"]
        return [_Patch(tuple(patch.region[axis] for axis in order), patch.slab.transpose(order))]

    def rev(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        patch, axes = _of(operands[0]), eqn.params["dimensions"]
        region = tuple(
            self.derive(_from_end, (p,), n) if axis in axes and p is not None else p
            for axis, (p, n) in enumerate(zip(patch.region, bases[0].shape, strict=True))
        )
        return [_Patch(region, lax.rev(patch.slab, axes))]

    def slice(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        strides = eqn.params["strides"] or (1,) * bases[0].ndim
        return [self.window(operands[0], eqn.params["start_indices"], strides, bases[0])]

    def split(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        axis, sizes = int(eqn.params["axis"]), [int(n) for n in eqn.params["sizes"]]
        starts = [
            [sum(sizes[:number]) if a == axis else 0 for a in range(base.ndim)]
            for number, base in enumerate(bases)
        ]
        return [
            self.window(operands[0], start, (1,) * base.ndim, base)
            for start, base in zip(starts, bases, strict=True)
        ]

    def window(self, value: _Value, starts: Sequence[int], strides: Sequence[int], out: Any) -> _Patch:
        patch, inside, region = _of(value), np.True_, list[Array | None]()
        slab = patch.slab
        for axis, (position, size) in enumerate(zip(patch.region, out.shape, strict=True)):
            start, stride = starts[axis], strides[axis]
            if position is None:
                slab = lax.slice_in_dim(slab, start, start + (size - 1) * stride + 1, stride, axis)
                region.append(None)
            else:
                moved, within = self.derive(_within, (position,), start, stride, size)
                inside = inside & within
                # A window over the whole axis leaves the position what it was.
                whole = size == value.base.shape[axis]
                region.append(position if whole else moved if size > 1 else None)
        return _Patch(tuple(region), jnp.where(inside, slab, self.cut(out, tuple(region))))

    def concatenate(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        axis = int(eqn.params["dimension"])
        patched = [number for number, operand in enumerate(operands) if operand.patch is not None]
        start = sum(operand.base.shape[axis] for operand in operands[: patched[0]])
        first = operands[patched[0]]
        narrow = first.base.shape[axis] == 1 or _of(first).region[axis] is not None
        if len(patched) == 1 and narrow and bases[0].shape[axis] > 1:
            region = list(_of(first).region)
            old: tuple[Any, ...] = () if region[axis] is None else (region[axis],)
            region[axis] = self.derive(_from_start, old, start)
            return [_Patch(tuple(region), _of(first).slab)]
        others = [p for n, p in enumerate(self.join_beside(operands, axis)) if n != axis]
        joined = (*others[:axis], None, *others[axis:])
        return [_Patch(joined, *_bind(eqn, [self.at(operand, joined) for operand in operands]))]

    def join_beside(self, operands: list[_Value], axis: int) -> Region:
        """Return the region that holds all patches, of arrays whose sizes may differ along one axis."""
        regions = [operand.patch.region for operand in operands if operand.patch is not None]
        return tuple(
            found[0] if number != axis and all(p is found[0] for p in found) else None
            for number, found in enumerate(zip(*regions, strict=True))
        )

    def dot_general(self, eqn: Any, operands: list[_Value], bases: list[Any]) -> list[_Patch]:
        contracted, batched = eqn.params["dimension_numbers"]
        patched = [side for side in (0, 1) if operands[side].patch is not None]
        regions: list[list[Array | None]] = [[None] * operand.base.ndim for operand in operands]
        for pairs in (contracted, batched):
            for axes in zip(*pairs, strict=True):
                found = [_of(operands[side]).region[axes[side]] for side in patched]
                if all(position is found[0] for position in found):
                    regions[0][axes[0]] = regions[1][axes[1]] = found[0]
        free = [
            [
                axis
                for axis in range(operands[side].base.ndim)
                if axis not in (*contracted[side], *batched[side])
            ]
            for side in (0, 1)
        ]
        if len(patched) == 1:  # of two, each would show in all rows or columns of the other's
            (side,) = patched
            for axis in free[side]:
                regions[side][axis] = _of(operands[side]).region[axis]
        result = tuple(
            [regions[0][axis] for axis in (*batched[0], *free[0])] + [regions[1][axis] for axis in free[1]]
        )
        new = [self.at(operand, tuple(region)) for operand, region in zip(operands, regions, strict=True)]
        if all(regions[0][axis] is None for axis in contracted[0]):
            return [_Patch(result, _dot(eqn, *new))]
        # Of the sum over the contracted axes only what is in the region changes.
        old = [
            self.cut(operand.base, tuple(region)) for operand, region in zip(operands, regions, strict=True)
        ]
        if len(patched) == 1:
            change = _dot(
                eqn,
                *(n - o if side in patched else n for side, (n, o) in enumerate(zip(new, old, strict=True))),
            )
        else:
            change = _dot(eqn, *new) - _dot(eqn, *old)
        return [_Patch(result, self.cut(bases[0], result) + change)]


def _of(value: _Value) -> _Patch:
    assert value.patch is not None
    return value.patch


def _unravel(positions: tuple[Array, ...], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Array, ...]:
    flat: Any = 0
    for position, size in zip(positions, old, strict=True):
        flat = flat * size + position
    return tuple(position.astype(jnp.int32) for position in jnp.unravel_index(flat, new))


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


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Return an equation's results for other values, possibly complex ones or of another shape."""
    if any(np.iscomplexobj(v) for v in values) and not any(
        jnp.issubdtype(atom.aval.dtype, jnp.complexfloating) for atom in eqn.invars
    ):
        return _bind_complex(eqn, list(values))
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before jax 0.10
    found = eqn.primitive.bind(*functions, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _bind_complex(eqn: Any, values: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, dict(eqn.params)
    if name in _REAL_ONLY or any(
        hasattr(value, "eqns") or hasattr(value, "jaxpr") for value in params.values()
    ):
        raise TypeError(f"{name} does not take complex numbers")
    if name in _ORDERINGS:
        found = eqn.primitive.bind(*(v.real if np.iscomplexobj(v) else v for v in values), **params)
        return [found]
    if name in _EXTREMA:
        return [jnp.where(_EXTREMA[name](values[0].real, values[1].real), *values)]
    if name == "clamp":
        low, x, high = values
        return [jnp.where(x.real < low.real, low, jnp.where(x.real > high.real, high, x))]
    if name in ("reduce_max", "reduce_min"):
        x, axes = values[0], params["axes"]
        extreme = x.real == (jnp.max if name == "reduce_max" else jnp.min)(x.real, axes, keepdims=True)
        return [jnp.sum(jnp.where(extreme, x, 0), axes) / jnp.sum(extreme, axes)]
    if name == "convert_element_type":
        if not jnp.issubdtype(params["new_dtype"], jnp.floating):
            raise TypeError(f"conversion to {params['new_dtype']} does not take complex numbers")
        return [values[0].astype(jnp.result_type(params["new_dtype"], jnp.complex64))]
    if params.get("preferred_element_type") is not None:
        params["preferred_element_type"] = None
    wide = jnp.result_type(*(v for v in values if np.iscomplexobj(v)))
    values = [v.astype(wide) if jnp.issubdtype(v.dtype, jnp.inexact) else v for v in values]
    try:
        found = eqn.primitive.bind(*values, **params)
    except TypeError as error:
        raise TypeError(f"{name} does not take complex numbers") from error
    return list(found) if eqn.primitive.multiple_results else [found]


def _dot(eqn: Any, left: Any, right: Any) -> Any:
    """Return `dot_general`; of contracted axes of size 1 as a product, not as many tiny matrix products."""
    contracted, batched = eqn.params["dimension_numbers"]
    if any(left.shape[axis] > 1 for axis in contracted[0]):
        return _bind(eqn, [left, right])[0]
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
