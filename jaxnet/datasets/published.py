"""MNIST and Fashion-MNIST: their files, in IDX format, found or downloaded."""

import gzip
import hashlib
import importlib.util
import io
import logging
import math
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import _extras
from jaxnet.datasets.arrays import Array, Split, StrPath, check_expansion, class_targets, scaled


class _IdxFile(NamedTuple):
    """One published file; `sha256` is of the decompressed bytes, `archive_sha256` of the downloaded `.gz`."""

    name: str
    shape: tuple[int, ...]
    sha256: str | None = None
    archive_sha256: str | None = None


class _Source(NamedTuple):
    """Where a dataset is published, and its train images, train labels, test images, test labels."""

    mirrors: tuple[str, ...]
    files: tuple[_IdxFile, ...]


# MNIST's are of the decompressed bytes, since archives of it that were compressed anew are in use.
_MNIST_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_ARCHIVE_SHA256 = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_FILES = (
    _IdxFile("train-images-idx3-ubyte", (60000, 28, 28)),
    _IdxFile("train-labels-idx1-ubyte", (60000,)),
    _IdxFile("t10k-images-idx3-ubyte", (10000, 28, 28)),
    _IdxFile("t10k-labels-idx1-ubyte", (10000,)),
)
SOURCES = {
    "mnist": _Source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        tuple(file._replace(sha256=sha) for file, sha in zip(_FILES, _MNIST_SHA256, strict=True)),
    ),
    "fashion-mnist": _Source(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        tuple(
            file._replace(archive_sha256=sha)
            for file, sha in zip(_FILES, _FASHION_ARCHIVE_SHA256, strict=True)
        ),
    ),
}
_CONNECT_READ_TIMEOUT_S = (15.0, 60.0)
_log = logging.getLogger(__name__)


def load_mnist(
    directory: StrPath | None = None, *, normalize: bool = True, one_hot_label: bool = False
) -> Split:
    """Load MNIST, 28 x 28 handwritten digits, 60,000 to train and 10,000 to test, downloading it if need be.

    x is [n, 784]: float32 in 0..1, or uint8 without `normalize`; t int32 [n], or float32 [n, 10]. The files
    may be compressed or not; wherever they were found, their decompressed bytes must be those published.
    Raises FileNotFoundError where there is no data and none can be downloaded, ValueError for a file in
    `directory` or `$JAXNET_DATA_DIR` that is not MNIST's, ImportError when a download needs pooch.
    """
    return load_published("mnist", directory, normalize, one_hot_label)


def load_fashion_mnist(
    directory: StrPath | None = None, *, normalize: bool = True, one_hot_label: bool = False
) -> Split:
    """Load Fashion-MNIST, 28 x 28 pictures of clothes in ten classes, in everything else like `load_mnist`.

    A download must be the published archives; files of your own are checked by their form only (magic number,
    sizes, labels 0 to 9). `CLASS_NAMES["fashion-mnist"]` names the labels.
    """
    return load_published("fashion-mnist", directory, normalize, one_hot_label)


def published_files(name_or_folder: StrPath) -> list[Path] | None:
    """Return the files of train images, train labels, test images, test labels, where a folder has all four.

    name_or_folder: a folder, or "mnist" or "fashion-mnist", looked for and downloaded as `load` does.
    """
    name = os.fspath(name_or_folder)
    folders = [Path(name).expanduser()]
    if name in SOURCES:
        folders = [Path(os.environ.get("JAXNET_DATA_DIR") or "", name).expanduser(), _cache_folder(name)]
        if all(_missing(folder, SOURCES[name]) for folder in folders):
            load_published(name, None, False, False)
    for folder in folders:
        found = [_find(folder, file.name) for file in _FILES]
        if all(found):
            return [path for path in found if path is not None]
    return None


def read_idx(path: StrPath, *, shape: tuple[int, ...] | None = None, sha256: str | None = None) -> Array:
    """Read an IDX file of unsigned bytes, labels [n] or images [n, rows, columns], gzip-compressed or not.

    Returns a read-only uint8 array. `shape` is what the header must say, `sha256` is of the decompressed
    bytes. Raises ValueError, with the file's name, for a damaged archive, another magic number, another
    shape, too few or too many bytes, another hash; in that order.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read_idx(f"{folder}/labels")
    array([7, 2, 1], dtype=uint8)
    """
    raw = Path(path).expanduser().read_bytes()
    return _parse_idx(raw, _IdxFile(str(path), () if shape is None else shape, sha256))


def _parse_idx(raw: bytes, file: _IdxFile) -> Array:
    """Parse and check the bytes of one file, as found; `file.name` goes into the errors."""
    packed = raw[:2] == b"\x1f\x8b"
    stream = gzip.GzipFile(fileobj=io.BytesIO(raw)) if packed else io.BytesIO(raw)

    def start_of(size: int) -> bytes:
        try:
            stream.seek(0)
            return stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = "is cut short" if isinstance(error, EOFError) else f"is damaged ({error})"
            raise ValueError(
                f"{file.name}: expected a whole gzip archive, this one {what}: {len(raw)} bytes"
            ) from None

    data = start_of(16)  # the header of images; nothing more is unpacked before it is checked
    magics = [0x800 + len(file.shape)] if file.shape else [0x801, 0x803]
    magic = int.from_bytes(data[:4], "big")
    if len(data) < 4 or magic not in magics:
        expected = " or ".join(f"0x{m:08x}" for m in magics)
        got = f"0x{magic:08x}" if len(data) >= 4 else f"a file of {len(data)} bytes"
        raise ValueError(f"{file.name}: expected the IDX magic number {expected}, got {got}")
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError(f"{file.name}: expected an IDX header of {start} bytes, got {len(data)} bytes")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if file.shape and shape != file.shape:
        raise ValueError(
            f"{file.name}: expected {_described(file.shape)}, its header says {_described(shape)}"
        )
    size = start + math.prod(shape)
    if packed:
        check_expansion(file.name, len(raw), size)
    data = start_of(size + 1) if packed else raw
    if len(data) != size:
        got = "more" if packed and len(data) > size else str(len(data))
        raise ValueError(f"{file.name}: expected {size} bytes for {_described(shape)}, got {got}")
    hashed = ((file.sha256, data, "decompressed bytes"), (file.archive_sha256, raw, "archive"))
    for published, content, what in hashed:
        if published is not None and (got := hashlib.sha256(content).hexdigest()) != published:
            raise ValueError(f"{file.name}: expected sha256 {published} of the {what}, got {got}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _described(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (" labels" if len(shape) == 1 else " images")


def load_published(name: str, directory: StrPath | None, normalize: bool, one_hot_label: bool) -> Split:
    """Load one of `SOURCES`, as `load_mnist` and `load_fashion_mnist` do."""
    source = SOURCES[name]
    if directory is not None:
        folder = Path(directory).expanduser()
        if missing := _missing(folder, source):
            raise FileNotFoundError(f"{name}: {folder} {missing}")
        arrays = _read_folder(folder, source)
    else:
        root = os.environ.get("JAXNET_DATA_DIR")
        folder = Path(root or "", name).expanduser()
        tried = f"{folder} {_missing(folder, source)}" if root else "JAXNET_DATA_DIR is not set"
        if root and not _missing(folder, source):
            arrays = _read_folder(folder, source)
        else:
            arrays = _fetch(name, source, tried)
    pairs = []
    for k in (0, 2):
        images, labels = arrays[k : k + 2]
        row = int(labels.argmax())
        if labels[row] > 9:
            file = source.files[k + 1].name
            raise ValueError(f"{name}: {file}: expected labels 0 to 9, got {labels[row]} in row {row}")
        x = scaled(images.reshape(len(images), -1), 255, normalize)
        pairs.append((x, class_targets(labels, 10, one_hot_label)))
    return pairs[0], pairs[1]


def _find(folder: Path, name: str) -> Path | None:
    """Find the file of that name, plain or `.gz`, spelled `-idx` or `.idx`; None if it is not there."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


def _missing(folder: Path, source: _Source) -> str:
    """Say what the folder lacks of the dataset, as the end of a sentence; empty if nothing."""
    if not folder.is_dir():
        return "is no folder"
    names = [file.name for file in source.files if _find(folder, file.name) is None]
    return f"holds no {', '.join(names)} (with or without .gz)" if names else ""


def _read_folder(folder: Path, source: _Source) -> list[Array]:
    """Read the four files of a user's folder, which may have been compressed anew and are never changed."""
    found = [(_find(folder, file.name) or folder / file.name, file) for file in source.files]
    return [read_idx(path, shape=file.shape, sha256=file.sha256) for path, file in found]


def _cache_folder(name: str) -> Path:
    pooch = _extras.require("pooch", "downloading needs", "data")
    return Path(pooch.os_cache("jaxnet")) / name


def _fetch(name: str, source: _Source, tried: str) -> list[Array]:
    """Read the four files from the cache, downloading those that are missing or damaged there."""
    cache = _cache_folder(name)
    mirrors = list(source.mirrors)
    arrays = []
    for file in source.files:
        archive = file._replace(name=f"{file.name}.gz")
        path = cache / archive.name
        failures = []
        if path.exists():
            try:
                arrays.append(_parse_idx(path.read_bytes(), archive))
                continue
            except ValueError as error:
                path.unlink(missing_ok=True)
                failures.append(f"the cached copy, now removed ({error})")
        for mirror in tuple(mirrors):
            try:
                arrays.append(_download(mirror, path, archive))
                break
            except (OSError, ValueError) as error:  # OSError: requests' errors are
                failures.append(f"{mirror} ({_reason(error)})")
                mirrors.append(mirrors.pop(mirrors.index(mirror)))  # the next file need not wait for it first
        else:
            raise FileNotFoundError(
                f"{name}: no data here, and no download: {tried}; {cache} holds no good {archive.name}; "
                f"failed: {', '.join(failures) or 'no mirror is known'}; try again with a network, or put "
                f"{', '.join(f.name for f in source.files)} (with or without .gz) into a folder and pass it "
                f"as directory=, or into {name}/ in the folder that JAXNET_DATA_DIR names"
            )
    return arrays


def _download(mirror: str, path: Path, archive: _IdxFile) -> Array:
    """Download one archive to the path, which appears there only whole and checked."""
    import pooch

    show_progress = bool(sys.stderr and sys.stderr.isatty() and importlib.util.find_spec("tqdm"))
    http: Callable[..., Any] = pooch.HTTPDownloader(
        progressbar=show_progress, chunk_size=1 << 16, timeout=_CONNECT_READ_TIMEOUT_S
    )
    arrays = []

    def download_checked(url: str, output_file: str, caller: object) -> None:
        # Before pooch moves its temporary file into place, so that wrong bytes never get the file's name.
        http(url, output_file, caller)
        arrays.append(_parse_idx(Path(output_file).read_bytes(), archive))

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        pooch.retrieve(mirror + archive.name, None, path.name, path.parent, downloader=download_checked)
    finally:
        logger.setLevel(level)
    # Another process may have put the file there since we looked; then pooch downloads nothing.
    return arrays[0] if arrays else _parse_idx(path.read_bytes(), archive)


def _reason(error: Exception) -> str:
    """Say why a mirror failed, in a few words on one line."""
    if hasattr(error, "response"):  # one of requests'
        return type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
    return " ".join(str(error).split())
