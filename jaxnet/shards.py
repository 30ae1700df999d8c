"""Datasets on disk, larger than memory: read by rows, a few at a time, and written shard by shard.

A folder holds `index.json` and, for each part, `train/x-00000.npy`, `train/t-00000.npy` and so on, with the
SHA-256 of each. Any pair of `.npy` files will do too: `OnDisk.of("x.npy", "t.npy")`.
"""

import gzip
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import _extras, datasets

_Path = str | os.PathLike[str]
Array = np.ndarray[Any, np.dtype[Any]]
_INDEX, _FORMAT = "index.json", "jaxnet dataset 1"
_HELD = 2**26  # bytes of all inputs, or of all targets, that are read once and held
_OPEN = 128  # files that stay mapped: a system lets a process open some hundreds
_RUN = 8  # rows in a run, on average, from which on runs are read one by one
_SPARE, _LARGE = 4, 2**20  # pieces of memory of so many bytes are kept, to be read into again
_REGIONS = 16  # of 2 MB, as the system may map them around a row: after so many they are given back


class Shard(NamedTuple):
    """Two files with as many rows."""

    x: Path
    t: Path
    length: int
    sha256: tuple[str, str] | None = None


@dataclass(frozen=True)
class OnDisk:
    """Examples on disk, as `fit` takes them for `train`; `len()` says how many, `rows` reads some."""

    shards: tuple[Shard, ...]
    top: float | None = None
    """What stored inputs are divided by, such as 255 for bytes."""
    class_names: tuple[str, ...] | None = None
    _open: dict[Path, Any] = field(default_factory=dict, compare=False, repr=False)
    _held: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)
    _spare: deque[mmap.mmap] = field(default_factory=lambda: deque(maxlen=_SPARE), compare=False, repr=False)

    def __reduce__(self) -> Any:
        return OnDisk, (self.shards, self.top, self.class_names)

    @staticmethod
    def of(x: _Path, t: _Path, *, top: float | None = None) -> "OnDisk":
        """Return the examples of a pair of `.npy` files, rows on the first axis of each.

        Raises:
            ValueError: a file is damaged, or they have not as many rows.
        """
        pair = Path(x).expanduser(), Path(t).expanduser()
        lengths = [len(_mapped(path)) for path in pair]
        if lengths[0] != lengths[1]:
            raise ValueError(f"{pair[1]}: expected the {lengths[0]} rows of {pair[0].name}, got {lengths[1]}")
        return OnDisk((Shard(*pair, lengths[0]),), top)

    def __len__(self) -> int:
        return self._ends[-1]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(shard.length for shard in self.shards))

    def rows(self, rows: Array) -> tuple[Array, Array]:
        """Return the inputs and targets in these rows, in that order; inputs that are scaled as float32.

        Raises:
            ValueError: a shard is cut short or not what the index says; the message names it.
        """
        asked = np.asarray(rows)
        x, t = (self._read(name, asked) for name in ("x", "t"))
        if self.top is not None:
            x = np.divide(x, np.float32(self.top), out=self._empty(x.shape, np.dtype(np.float32)))
        return x, t

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an aligned array, which JAX takes without a copy, in spare memory where there is some."""
        if (size := math.prod(shape) * dtype.itemsize) < _LARGE:
            return datasets.aligned(shape, dtype)
        memory = None
        for spare in tuple(self._spare):
            if len(spare) == size:
                with suppress(ValueError):  # another thread took it
                    self._spare.remove(spare)
                    memory = spare
                    break
        if memory is None:
            memory = mmap.mmap(-1, size)
        found = np.frombuffer(memory, dtype)
        # Each view of it, JAX's too, holds this array: NumPy lets it stand for what is no array below it.
        weakref.finalize(found, self._spare.append, memory).atexit = False
        return found.reshape(shape)

    def _read(self, name: str, rows: Array) -> Array:
        """Read rows of "x" or "t", those that lie one after another at once; only they take memory."""
        first, ends = self.file(self.shards[0], name), np.array(self._ends)
        size = first[:1].nbytes
        out = self._empty((len(rows), *first.shape[1:]), first.dtype)
        if len(self) * size <= _HELD:
            if name not in self._held:
                self._held[name] = np.concatenate([np.array(self.file(shard, name)) for shard in self.shards])
            return np.take(self._held[name], rows, axis=0, out=out, mode="clip")  # others would buffer it
        # In their order in the files, so that few regions are mapped at a time, and each once.
        order = np.argsort(rows, kind="stable")
        shard = np.searchsorted(ends, rows[order], "right")
        local = rows[order] - np.append(0, ends)[shard]
        follows = (np.diff(order) == 1) & (np.diff(local) == 1) & (np.diff(shard) == 0)
        runs = np.flatnonzero(np.r_[True, ~follows, True])
        if len(runs) * _RUN <= len(rows):
            self._read_runs(name, runs.tolist(), out, order, shard, local)
            return out
        change = np.append(0, (np.diff(shard) != 0) | (np.diff(local.astype(np.int64) * size >> 21) != 0))
        chunk = np.cumsum(change) * max(1, size >> 21) // _REGIONS
        cuts = np.flatnonzero(np.r_[True, (np.diff(shard) != 0) | (np.diff(chunk) != 0), True])
        for start, stop in pairwise(cuts.tolist()):
            file, path = self.file(self.shards[shard[start]], name), getattr(self.shards[shard[start]], name)
            if (got := path.stat().st_size) < file.offset + file.nbytes:
                raise ValueError(
                    f"{path}: expected {file.offset + file.nbytes} bytes, got {got}: it was cut short"
                )
            out[order[start:stop]] = np.take(file, local[start:stop], axis=0, mode="clip")
            if hasattr(mmap, "MADV_DONTNEED"):  # or what was read once would count as this process's memory
                file._mmap.madvise(mmap.MADV_DONTNEED)
        return out

    def _read_runs(
        self, name: str, runs: list[int], out: Array, order: Array, shard: Array, local: Array
    ) -> None:
        """Read rows of which many lie one after another, each run of them straight into its place."""
        for same in pairwise(np.flatnonzero(np.r_[True, np.diff(shard[runs[:-1]]) != 0, True]).tolist()):
            own = self.shards[shard[runs[same[0]]]]
            path, file = getattr(own, name), self.file(own, name)
            with path.open("rb", buffering=0) as raw:
                for start, stop in pairwise(runs[same[0] : same[1] + 1]):
                    place = int(order[start])
                    into = out[place : place + stop - start]
                    raw.seek(file.offset + int(local[start]) * into[:1].nbytes)
                    if raw.readinto(into.view(np.uint8).data) < into.nbytes:
                        got, expected = path.stat().st_size, file.offset + file.nbytes
                        raise ValueError(f"{path}: expected {expected} bytes, got {got}: it was cut short")

    def file(self, shard: Shard, name: str) -> Any:
        """Return the rows of a shard's "x" or "t", mapped into memory; ValueError where it is damaged."""
        path: Path = getattr(shard, name)
        if path not in self._open:
            file = _mapped(path)
            if len(file) != shard.length:
                raise ValueError(f"{path}: expected {shard.length} rows, got {len(file)}")
            if len(self._open) >= _OPEN:
                return file
            self._open[path] = file
        return self._open[path]

    def where(self, row: int) -> str:
        """Return the file of the inputs that a row is in, and its place there."""
        index = bisect_right(self._ends, row)
        shard = self.shards[index]
        return f"{shard.x}, row {row - (self._ends[index] - shard.length)}"

    def labels(self) -> Array:
        """Return all targets, which take little memory beside the inputs."""
        return np.concatenate([np.array(self.file(shard, "t")) for shard in self.shards])

    def verify(self) -> None:
        """Compare every shard with its SHA-256; ValueError, which names it, for one that is damaged."""
        for shard in self.shards:
            for path, expected in zip(shard[:2], shard.sha256 or (), strict=False):
                if (got := _sha256(path)) != expected:
                    raise ValueError(f"{path}: expected sha256 {expected}, got {got}: it is damaged")


def _mapped(path: Path) -> Any:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a shard of the dataset, got no file") from None
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a whole .npy file of numbers, got another ({reason})") from None
    if not isinstance(found, np.memmap) or found.ndim == 0 or found.dtype.kind not in "biuf":
        got = getattr(found, "dtype", type(found).__name__)
        raise ValueError(f"{path}: expected a .npy file of rows of numbers, got {got}")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(folder: _Path, *, verify: bool = False) -> tuple[OnDisk, OnDisk]:
    """Return train and test of a folder that `convert`, or `jaxnet convert`, wrote; nothing is read yet.

    verify: compare every shard with its SHA-256 first, else only whether it is there and of its size.

    Raises:
        ValueError: no such folder, or a shard that is missing, cut short, or damaged; the message names it.
    """
    root = Path(folder).expanduser()
    try:
        index = json.loads((root / _INDEX).read_text())
        names, sizes = index["class_names"], dict[Path, int]()
        parts = {}
        for part in ("train", "test"):
            shards = []
            for told in index["parts"][part]:
                paths, hashes = (root / told["x"], root / told["t"]), told["sha256"]
                sizes |= dict(zip(paths, map(int, told["bytes"]), strict=True))
                shards.append(Shard(*paths, int(told["length"]), (str(hashes[0]), str(hashes[1]))))
            parts[part] = OnDisk(tuple(shards), index["top"], None if names is None else tuple(names))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{root}: expected a folder that jaxnet convert wrote, got none ({error})") from None
    for path, size in sizes.items():
        got = path.stat().st_size if path.exists() else None
        if got != size:
            what = "no file" if got is None else f"{got} bytes: it is damaged"
            raise ValueError(f"{path}: expected a shard of {size} bytes, got {what}")
    if verify:
        for examples in parts.values():
            examples.verify()
    return parts["train"], parts["test"]


def is_folder(folder: _Path) -> bool:
    """Return whether `load` can be asked for a folder."""
    return Path(folder).expanduser().joinpath(_INDEX).is_file()


def convert(
    source: _Path,
    folder: _Path,
    *,
    shard_bytes: int = 2**26,
    target: str | None = None,
    test: float = 0.2,
    tell: Callable[[int], object] = lambda rows: None,
) -> tuple[OnDisk, OnDisk]:
    """Write a dataset as a folder of shards, never holding more than one; return train and test of it.

    source: "mnist", "fashion-mnist" or a folder with their four files, an `.npz` or `.csv` file, or a folder
    of images by class, as `datasets.load` takes them, however large. target: the column of a `.csv` file.
    test: the share of rows that become the test examples where the source has none of its own, each drawn
    by itself, always alike. tell: called with the number of rows after each piece.

    The folder appears whole, once all is written, or not at all.

    Raises:
        ValueError: a source that is none or damaged, no examples of a part, or a folder that is there.
        ImportError: pandas or Pillow is not installed.
    """
    root = Path(folder).expanduser()
    if root.exists():
        raise ValueError(f"expected a new folder, got {root}, which is there")
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1, got {test}")
    top, names, pieces = _pieces(os.fspath(source), target)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        writers = {part: _Writer(partial, part, shard_bytes) for part in ("train", "test")}
        rng = np.random.RandomState(0)  # whose stream never changes between NumPy's versions
        for part, x, t in pieces:
            if part is not None:
                writers[part].add(x, t)
            else:
                held = rng.random_sample(len(x)) < test
                writers["train"].add(x[~held], t[~held])
                writers["test"].add(x[held], t[held])
            tell(len(x))
        parts = {part: writer.ended() for part, writer in writers.items()}
        if empty := [part for part, shards in parts.items() if not shards]:
            raise ValueError(f"{source}: expected examples to train on and to test, got none for {empty[0]}")
        index = {"format": _FORMAT, "top": top, "class_names": names, "parts": parts}
        (partial / _INDEX).write_text(json.dumps(index, indent=1))
        partial.chmod(0o755)
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load(root)


def own_part(name: str, own: Callable[[int], tuple[int, int]]) -> tuple[dict[str, tuple[Array, Array]], str]:
    """Return, of "mnist" or "fashion-mnist", some inputs and all labels of each part, and the SHA-256 of all.

    own: the first and last + 1 of the rows to keep, of so many; no more than these are ever held. The hash is
    that of the arrays which `datasets.load` gives, one after another, each after its dtype and shape.
    """
    files, digest = datasets.published_files(name) or [], hashlib.sha256()
    parts: dict[str, tuple[Array, Array]] = {}
    for part, images, labels in zip(("train", "test"), files[::2], files[1::2], strict=True):
        with _idx(images, 3) as (shape, x), _idx(labels, 1) as (length, t):
            (first, last), width, row = own(shape[0]), math.prod(shape[1:]), 0
            kept = np.empty((last - first, width), np.float32)
            digest.update(f"{kept.dtype}{(shape[0], width)}".encode())
            for rows in _cut(x, shape):
                inputs = np.divide(rows, np.float32(255), dtype=np.float32)
                digest.update(inputs.data)
                start, stop = max(first, row), min(last, row + len(rows))
                if start < stop:
                    kept[start - first : stop - first] = inputs[start - row : stop - row]
                row += len(rows)
            targets = np.concatenate(list(_cut(t, length))).astype(np.int32)
            digest.update(f"{targets.dtype}{targets.shape}".encode())
            digest.update(targets.data)
            parts[part] = kept, targets
    return parts, digest.hexdigest()


class _Writer:
    """The shards of a part: what has come is held until it fills one."""

    def __init__(self, root: Path, part: str, shard_bytes: int):
        self._root, self._part, self._bytes = root, part, shard_bytes
        self._held: list[tuple[Array, Array]] = []
        self._size = 0
        self._shards: list[dict[str, Any]] = []
        (root / part).mkdir()

    def add(self, x: Array, t: Array) -> None:
        """Take rows, and write a shard where there are enough."""
        while len(x):
            row = x[:1].nbytes + t[:1].nbytes
            room = max(1, (self._bytes - self._size) // row)
            self._held.append((x[:room].copy(), t[:room].copy()))
            self._size += row * len(x[:room])
            full = len(x) >= room
            x, t = x[room:], t[room:]
            if full:
                self._write()

    def _write(self) -> None:
        x, t = (np.concatenate(arrays) for arrays in zip(*self._held, strict=True))
        self._held, self._size = [], 0
        names = [f"{self._part}/{name}-{len(self._shards):05}.npy" for name in "xt"]
        for name, array in zip(names, (x, t), strict=True):
            with (self._root / name).open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        paths = [self._root / name for name in names]
        about = {"sha256": [*map(_sha256, paths)], "bytes": [path.stat().st_size for path in paths]}
        self._shards.append({"x": names[0], "t": names[1], "length": len(x)} | about)

    def ended(self) -> list[dict[str, Any]]:
        """Write what is left; return what the index says of all."""
        if self._held:
            self._write()
        return self._shards


_Pieces = Iterator[tuple[str | None, Array, Array]]  # part or None, inputs [n, d], targets [n]
_PIECE = 2**22  # bytes


def _pieces(source: str, target: str | None) -> tuple[float | None, tuple[str, ...] | None, _Pieces]:
    """Return what inputs are to be divided by, the names of the classes, and the rows of a source."""
    path = Path(source).expanduser()
    published = datasets.published_files(source if source in datasets.CLASS_NAMES else path)
    if target is not None and path.suffix.lower() != ".csv":
        raise ValueError(f"target is of .csv files, got it with {source!r}")
    if published is not None:
        return 255.0, datasets.CLASS_NAMES.get(source, datasets.CLASS_NAMES["mnist"]), _of_idx(published)
    if path.suffix.lower() == ".npz":
        return _of_npz(path)
    if path.suffix.lower() == ".csv":
        return _of_csv(path, target)
    if path.is_dir():
        return 255.0, datasets.class_names(path), _of_images(path)
    raise ValueError(f"expected mnist, fashion-mnist, an .npz or .csv file, or a folder, got {source!r}")


def _of_idx(files: list[Path]) -> _Pieces:
    for part, images, labels in zip(("train", "test"), files[::2], files[1::2], strict=True):
        with _idx(images, 3) as (shape, x), _idx(labels, 1) as (length, t):
            if shape[0] != length[0]:
                raise ValueError(f"{labels}: expected {shape[0]} labels, got {length[0]}")
            for rows, targets in zip(_cut(x, shape), _cut(t, length, shape), strict=True):
                yield part, rows, targets.astype(np.int32)


@contextmanager
def _idx(path: Path, dimensions: int) -> Iterator[tuple[tuple[int, ...], "_Stream"]]:
    """Give the shape that an IDX file's header tells, and the stream of its bytes after that."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Stream(path, gzip.GzipFile(fileobj=raw) if packed else raw, np.dtype(np.uint8))
        header = stream.read(4 + 4 * dimensions)
        if int.from_bytes(header[:4], "big") != 0x800 + dimensions:
            raise ValueError(f"{path}: expected the IDX magic number of {dimensions} dimensions, got another")
        yield struct.unpack_from(f">{dimensions}I", header, 4), stream


class _Stream(NamedTuple):
    """Numbers that are read one after another."""

    path: Path
    file: Any
    dtype: np.dtype[Any]

    def read(self, size: int) -> bytes:
        """Return as many bytes; ValueError where there are fewer."""
        try:
            found: bytes = self.file.read(size)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: expected a whole file, got a damaged one ({error})") from None
        if len(found) != size:
            raise ValueError(f"{self.path}: expected a whole file, got one that is cut short")
        return found


def _cut(stream: _Stream, shape: tuple[int, ...], like: tuple[int, ...] | None = None) -> Iterator[Array]:
    """Yield rows of a stream, as many at a time as of an array of bytes `like` it fit a piece."""
    width = math.prod(shape[1:])
    at_once = max(1, _PIECE // max(1, math.prod((like or shape)[1:]) * 4))
    for start in range(0, shape[0], at_once):
        count = min(at_once, shape[0] - start)
        found = np.frombuffer(stream.read(count * width * stream.dtype.itemsize), stream.dtype)
        yield found.reshape((count, width) if len(shape) > 1 else count)


def _of_npz(path: Path) -> tuple[float | None, None, _Pieces]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected an npz file, got none ({error})") from None
    found = {name.removesuffix(".npy").replace("y_", "t_"): name for name in archive.namelist()}
    parts = [part for part in ("train", "test") if f"x_{part}" in found]
    if "train" not in parts or any(f"t_{part}" not in found for part in parts):
        raise ValueError(f"{path}: expected x_train and t_train, got only {', '.join(found) or 'nothing'}")

    def opened(name: str) -> tuple[tuple[int, ...], _Stream]:
        file = archive.open(found[name])
        try:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{min(version[0], 2)}_0")
            shape, fortran, dtype = read(file)
        except (ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: {name}: expected an array of numbers, got none ({error})") from None
        if (fortran and len(shape) > 1) or dtype.kind not in "buif" or not shape:
            order = ", in Fortran's order" if fortran else ""
            raise ValueError(
                f"{path}: {name}: expected an array of numbers with rows, got {dtype}{shape}{order}"
            )
        return shape, _Stream(path, file, dtype)

    def pieces() -> _Pieces:
        for part in parts:
            (shape, x), (length, t) = (opened(f"{name}_{part}") for name in "xt")
            if shape[0] != length[0]:
                raise ValueError(
                    f"{path}: t_{part}: expected the {shape[0]} rows of x_{part}, got {length[0]}"
                )
            named = None if len(parts) == 1 else part
            for rows, targets in zip(_cut(x, shape), _cut(t, length, shape), strict=True):
                wide = rows.reshape(len(rows), -1)
                inputs = wide if wide.dtype == np.uint8 else datasets.features(wide, f"{path}: x_{part}")
                yield named, inputs, _target(targets, f"{path}: t_{part}")

    first = opened("x_train")[1].dtype
    return 255.0 if first == np.uint8 else None, None, pieces()


def _target(t: Array, name: str) -> Array:
    if t.dtype.kind == "f":
        return datasets.features(t.reshape(len(t), -1), name).reshape(t.shape)
    if len(t) and not (t.min() >= 0 and t.max() < 2**31):
        raise ValueError(f"{name}: expected labels from 0 to {2**31 - 1}, got {t.min()} to {t.max()}")
    return t.astype(np.int32)


def _of_csv(path: Path, target: str | None) -> tuple[None, tuple[str, ...] | None, _Pieces]:
    pandas = _extras.require("pandas", ".csv files need", "tables")
    try:
        column = target or pandas.read_csv(path, nrows=1).columns[-1]
        values = set()
        for frame in pandas.read_csv(path, usecols=[column], chunksize=100_000):
            values |= set(frame[column].dropna())
    except ValueError as error:
        wanted = "comma-separated values" if target is None else f"a table with a column {target!r}"
        raise ValueError(f"{path}: expected {wanted}, got what cannot be read so ({error})") from None
    is_text = any(isinstance(value, str) for value in values)
    names = tuple(sorted(map(str, values))) if is_text else None
    numbers = {name: number for number, name in enumerate(names or ())}

    def pieces() -> _Pieces:
        for frame in pandas.read_csv(path, chunksize=10_000):
            t, rest = frame[column], frame.drop(columns=[column])
            if t.isna().any() or (text := [c for c in rest if rest[c].dtype.kind not in "buif"]):
                what = f"text in {text[0]!r}" if not t.isna().any() else f"no value in {column!r}"
                raise ValueError(
                    f"{path}: expected numbers in all columns but the target, and a target, got {what}"
                )
            x = datasets.features(rest.to_numpy(np.float64), f"{path}, rows from {int(frame.index[0])}")
            own = t.astype(str).map(numbers).to_numpy(np.int32) if is_text else t.to_numpy()
            yield None, x, _target(own, f"{path}: {column}")

    return None, names, pieces()


def _of_images(folder: Path) -> _Pieces:
    first = None
    for part, label, path, image in datasets.images_of(folder):
        first = first or image.shape
        if image.shape != first:
            raise ValueError(f"{path}: expected an image of shape {first}, as the first, got {image.shape}")
        yield None if part == folder else part.name, image.reshape(1, -1), np.array([label], np.int32)
