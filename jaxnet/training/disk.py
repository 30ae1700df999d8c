"""Examples that stay on disk: the batches of the next steps, read ahead, and evaluation piece by piece."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet._extras import require
from jaxnet.sharding import DATA, layout
from jaxnet.shards import OnDisk
from jaxnet.training.state import Examples

_READERS, _AHEAD = 2, 2  # threads, and pieces that are read before they are asked for
PIECE = 2**26  # bytes that are read at once


def like(source: OnDisk) -> Examples:
    """Return what the examples of a dataset on disk are like, as shapes alone.

    Raises:
        ValueError: a shard that is missing, cut short or unlike the first; the message names it.
    """
    for shard in source.shards:
        for name in "xt":
            path, first, own = (
                getattr(shard, name),
                *(source.file(s, name) for s in (source.shards[0], shard)),
            )
            if (own.shape[1:], own.dtype) != (first.shape[1:], first.dtype):
                expected, got = (f"{array.dtype}{list(array.shape[1:])}" for array in (first, own))
                raise ValueError(f"{path}: expected rows of {expected}, as in the first shard, got {got}")

    def struct(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct((len(source), *leaf.shape[1:]), dtype)

    x, t = map(struct, source.rows(np.array([0])))
    return Examples(x, t)


def row_bytes(source: OnDisk) -> int:
    """Return how many bytes an example takes in memory."""
    return sum(leaf.nbytes for leaf in source.rows(np.array([0])))


def read(source: OnDisk, rows: np.ndarray, weight: Any = None) -> Examples:
    """Return examples on the host, in JAX's types; ValueError for labels that do not fit these."""
    x, t = source.rows(rows.ravel())
    found = []
    for leaf in (x, t):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if leaf.dtype != dtype and leaf.dtype.kind in "iu" and leaf.size:
            limits, low, high = np.iinfo(dtype), leaf.min(), leaf.max()
            if low < limits.min or high > limits.max:
                raise ValueError(f"train must fit into {dtype}, got {low}..{high}")
        found.append(leaf.astype(dtype, copy=False).reshape(*rows.shape, *leaf.shape[1:]))
    return Examples(found[0], found[1], None if weight is None else np.asarray(weight)[rows])


def check_finite(source: OnDisk, rows: np.ndarray) -> None:
    """Raise ValueError, with the file and the row there, for an input or target that is not finite."""
    for leaf, kind in zip(source.rows(rows), ("inputs", "targets"), strict=True):
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            bad = rows[np.argwhere(~np.isfinite(leaf))[0][0]]
            raise ValueError(f"train {kind} must be finite, got NaN or infinity in {source.where(int(bad))}")


def in_turn(piece: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return what gives pieces by their numbers, and reads those that follow while one is in use."""
    grain = require("grain", "datasets on disk need", "disk")
    x64 = jax.config.values["jax_enable_x64"]
    at, current, coming = -1, None, iter(())  # type: int, Any, Iterator[Any]

    class From:
        """The pieces from a number on, as a source of grain's."""

        def __init__(self, first: int):
            self._first = first

        def __len__(self) -> int:
            return 2**31 - self._first

        def __getitem__(self, index: int) -> Any:
            with jax.enable_x64(x64):  # which threads have each of their own
                return piece(self._first + index)

    def get(number: int) -> Any:
        nonlocal at, current, coming
        if number != at:
            if number != at + 1 or at < 0:
                options = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_AHEAD)
                coming = iter(grain.MapDataset.source(From(number)).to_iter_dataset(options))
            current, at = None, number  # freed before the next is waited for
            current = next(coming)
        return current

    return get


def batches(
    source: OnDisk, draw: Callable[[int], np.ndarray], mesh: Mesh | None, weight: Any = None
) -> Callable[[int], Examples]:
    """Return what gives the batches of a block of steps, on the devices; draw: their rows [steps, batch].

    On a mesh each process reads its columns of every batch alone.
    """

    def block(number: int) -> Examples:
        rows = draw(number)
        if mesh is None:
            return _on_device(read(source, rows, weight))
        missing = -rows.shape[1] % mesh.shape[DATA]
        padded = np.pad(rows, ((0, 0), (0, missing)))
        split = NamedSharding(mesh, PartitionSpec(None, DATA))
        parts = {}
        for index in split.addressable_devices_indices_map(padded.shape).values():
            columns = _columns(index, padded.shape[1])
            if columns not in parts:
                parts[columns] = read(source, padded[:, slice(*columns)], weight)

        def place(*leaves: np.ndarray) -> jax.Array:
            shape = (*padded.shape, *leaves[0].shape[2:])
            own = dict(zip(parts, leaves, strict=True))

            return jax.make_array_from_callback(shape, split, lambda index: own[_columns(index, shape[1])])

        found: Examples = jax.tree.map(place, *parts.values())
        return found._replace(layout=layout(padded.shape[1], mesh))

    return in_turn(block)


def _on_device(examples: Examples) -> Examples:
    found: Examples = jax.tree.map(jax.device_put, examples)
    return found


def _columns(index: Any, length: int) -> tuple[int, int]:
    return index[1].start or 0, index[1].stop or length


def pieces(source: OnDisk, at_once: int, mesh: Mesh | None) -> Iterator[Examples]:
    """Yield all examples in their order, so many at a time, on the devices."""

    def piece(number: int) -> Examples:
        start, stop = number * at_once, min((number + 1) * at_once, len(source))
        if start >= stop:  # read ahead of the end
            return Examples(None, None)
        if mesh is None:
            return _on_device(read(source, np.arange(start, stop)))
        how = layout(stop - start, mesh)
        first, last = how.own_rows()
        host = read(source, np.arange(start + first, start + last))
        placed: Examples = jax.tree.map(lambda leaf: how.place(leaf, first), host)
        return placed._replace(layout=how)

    get = in_turn(piece)
    for number in range(-(-len(source) // at_once)):
        yield get(number)


def mean_over(
    found: Iterator[tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]], part: str
) -> dict[str, np.ndarray]:
    """Return metrics over all pieces, of each its length, values, and by how much they are no means.

    Raises:
        ValueError: a metric is no mean over examples, which would need all of them at once.
    """
    total, means = 0, dict[str, np.ndarray]()
    for length, values in found:
        total += length
        for name, (value, gap) in values.items():
            eps = jnp.finfo(value.dtype).eps if np.issubdtype(value.dtype, np.floating) else 0
            if (np.abs(gap) > 64 * eps * np.abs(value)).any():
                raise ValueError(
                    f"the metric {name!r} must be a mean over examples, since {part} is on disk, got none"
                )
            before = means.get(name, np.zeros_like(value))
            means[name] = np.asarray(before + (value - before) * (length / total), value.dtype)
    return means
