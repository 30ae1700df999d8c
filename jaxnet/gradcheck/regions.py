"""Where in an array a change shows, and what the array is there: at one position along some axes."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Region = tuple[Array | None, ...]  # by axis: the position, or None for everywhere, also where the size is 1


class Patch(NamedTuple):
    """What an array is in a region of it."""

    region: Region
    slab: Array  # the values there, of size 1 along the axes that have a position
    change: Array  # from what they are at the point itself
    error: Array | None  # how far off rounding makes the change; None where that is not followed


class Value(NamedTuple):
    """An array at the point itself, and beside it."""

    base: Any  # at the point itself
    patch: Patch | None = None  # where the move shows, if it does


class Regions:
    """Values in regions of arrays. Positions derived alike are one object: that tells they are equal."""

    def __init__(self) -> None:
        self.derived: dict[Hashable, Any] = {}
        self.alive: list[Any] = []  # keeps the ids in `derived` unique

    def derive(self, rule: Callable[..., Any], positions: tuple[Array, ...], *static: Hashable) -> Any:
        """Return what a rule makes of positions: the same object where it was asked for before."""
        key = rule.__name__, tuple(map(id, positions)), static
        if key not in self.derived:
            self.alive.extend(positions)
            self.derived[key] = rule(positions, *static)
        return self.derived[key]

    def cut(self, array: Any, region: Region) -> Any:
        """Return an array in a region."""
        if all(position is None for position in region):
            return array
        start = [np.int32(0) if position is None else position for position in region]
        sizes = [n if position is None else 1 for position, n in zip(region, array.shape, strict=True)]
        return lax.dynamic_slice(array, start, sizes)

    def at(self, value: Value, region: Region) -> Any:
        """Return a value in a region that is no narrower than its patch; size 1 and scalars broadcast."""
        base, patch = value
        return self.spread(base, patch and patch.slab, patch, region)

    def change(self, value: Value, region: Region) -> Any:
        """Return a value's change in a region that is no narrower than its patch."""
        base, patch = value
        return self.spread(jnp.zeros_like(base), patch and patch.change, patch, region)

    def error(self, value: Value, region: Region) -> Any:
        """Return how far off a value's change is in a region that is no narrower than its patch."""
        base, patch = value
        error = None if patch is None else patch.error
        if error is None:
            return self.cut_or_scalar(jnp.zeros_like(base), region)
        return self.spread(jnp.zeros_like(base), error, patch, region)

    def widened(self, value: Value, region: Region) -> Patch:
        """Return a value's patch in a region that is no narrower."""
        error = None if value.patch is None or value.patch.error is None else self.error(value, region)
        return Patch(region, self.at(value, region), self.change(value, region), error)

    def follows(self, operands: Sequence[Value]) -> bool:
        """Return whether the rounding of a change is followed: not that of a complex one."""
        moves = [o.patch for o in operands if o.patch is not None and is_float(o.base)]
        return all(patch.error is not None for patch in moves)

    def spread(self, around: Any, here: Any, patch: Patch | None, region: Region) -> Any:
        """Return in a region what is `here` in the patch's and `around` elsewhere."""
        if np.ndim(around) != len(region):
            return around if patch is None else here
        region = tuple(p if n > 1 else None for p, n in zip(region, np.shape(around), strict=True))
        if patch is None:
            return self.cut(around, region)
        wider = [axis for axis, p in enumerate(patch.region) if p is not None and region[axis] is None]
        if not wider:
            return here
        inside: Any = np.True_
        for axis in wider:
            sizes = [around.shape[a] if a == axis else 1 for a in range(around.ndim)]
            inside = inside & (lax.broadcasted_iota(jnp.int32, sizes, axis) == patch.region[axis])
        return jnp.where(inside, here, self.cut(around, region))

    def cut_or_scalar(self, base: Any, region: Region) -> Any:
        """Return an array that broadcasts to those with a region in it."""
        if np.ndim(base) != len(region):
            return base
        return self.cut(
            base, tuple(p if n > 1 else None for p, n in zip(region, np.shape(base), strict=True))
        )

    def join(self, values: Sequence[Value], shape: tuple[int, ...]) -> Region:
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

    def join_beside(self, operands: list[Value], axis: int) -> Region:
        """Return the region that holds all patches, of arrays whose sizes may differ along one axis."""
        regions = [operand.patch.region for operand in operands if operand.patch is not None]
        return tuple(
            found[0] if number != axis and all(p is found[0] for p in found) else None
            for number, found in enumerate(zip(*regions, strict=True))
        )

    def unravel(self, positions: tuple[Array, ...], old: tuple[int, ...], new: tuple[int, ...]) -> Region:
        """Return where a position in axes of sizes `old` is once they have sizes `new`."""
        if [n for n in old if n > 1] == [n for n in new if n > 1]:
            kept = iter(positions)
            return tuple(next(kept) if n > 1 else None for n in new)
        found = self.derive(_unravel, positions, tuple(n for n in old if n > 1), new)
        return tuple(p if n > 1 else None for p, n in zip(found, new, strict=True))


def is_float(value: Any) -> bool:
    """Return whether a value is of real floating-point numbers."""
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.floating))


def _unravel(positions: tuple[Array, ...], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Array, ...]:
    flat: Any = 0
    for position, size in zip(positions, old, strict=True):
        flat = flat * size + position
    return tuple(position.astype(jnp.int32) for position in jnp.unravel_index(flat, new))
