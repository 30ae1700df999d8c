"""Handwritten digits, MNIST, Fashion-MNIST, your own arrays, tables and images, as plain NumPy arrays.

Every loader returns `((x_train, t_train), (x_test, t_test))`: x float32 [n, d]; t int32 labels [n], or
one-hot rows, float32 [n, classes], with `one_hot_label=True`; with `task="regression"` numbers, float32 [n]
or [n, outputs]. With `normalize=False`, x keeps the bytes as uint8.

The four files of MNIST and of Fashion-MNIST are looked for in this order:

1. the `directory` argument, and then nowhere else;
2. `$JAXNET_DATA_DIR/mnist` (or `/fashion-mnist`), used where it holds all four files;
3. the user's cache folder, into which what is missing is downloaded once, from the first mirror that has it.
"""

import difflib
import gzip
import hashlib
import importlib.util
import io
import logging
import math
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxnet import _arrays, _extras
from jaxnet._images import centred, read_image
from jaxnet._names import Task as Task

__all__ = [
    "CLASS_NAMES",
    "Split",
    "centred",
    "class_names",
    "folds",
    "input_scale",
    "load",
    "load_csv",
    "load_digits",
    "load_fashion_mnist",
    "load_images",
    "load_mnist",
    "load_npz",
    "read_idx",
    "read_image",
    "split",
]

_Path: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Split: TypeAlias = tuple[tuple[Array, Array], tuple[Array, Array]]

_DIGITS = tuple("0123456789")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


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
_SOURCES = {
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
_FEW_CLASSES = 100  # up to which it does not matter that some have no examples
_NO_CLASSES = (
    "number the classes that occur, as np.unique(t, return_inverse=True)[1] does, or, for a regression, "
    "load with task='regression'"
)
_log = logging.getLogger(__name__)


def load(
    name_or_path: _Path,
    directory: _Path | None = None,
    *,
    normalize: bool = True,
    one_hot_label: bool = False,
    task: Task = "classification",
    target: str | None = None,
) -> Split:
    """Load "digits", "mnist", "fashion-mnist", or your own `.npz` or `.csv` file, or folder.

    `directory` is the folder of the four files of MNIST or Fashion-MNIST; `target` the column of a `.csv`
    file that is t, the last one by default; `task` what t is in your own `.npz` or `.csv` file. Raises
    ValueError for another name, or for what a dataset does not take, and whatever its own loader raises.

    >>> (x_train, t_train), (x_test, t_test) = load("digits")
    >>> x_train.shape, t_test.shape
    ((1437, 64), (360,))
    """
    name = os.fspath(name_or_path)
    kind = _kind(name)
    if directory is not None and kind != "published":
        raise ValueError(f"directory is for {' and '.join(map(repr, _SOURCES))} only, got it with {name!r}")
    if target is not None and kind != "csv":
        raise ValueError(f"target is of .csv files, got it with {name!r}")
    if task != "classification" and kind not in ("npz", "csv"):
        raise ValueError(f"task {task!r} is of .npz and .csv files, got it with {name!r}")
    if kind == "shards":
        return _load_shards(name, normalize, one_hot_label)
    if kind == "published":
        return _load_published(name, directory, normalize, one_hot_label)
    if kind == "npz":
        return load_npz(name, normalize=normalize, one_hot_label=one_hot_label, task=task)
    if kind == "csv":
        return load_csv(name, target=target, one_hot_label=one_hot_label, task=task)
    if kind == "images":
        return load_images(name, normalize=normalize, one_hot_label=one_hot_label)
    return load_digits(normalize=normalize, one_hot_label=one_hot_label)


def _kind(name: str) -> str:
    """Return what `load` takes a name for."""
    if name in _SOURCES:
        return "published"
    if name == "digits":
        return name
    if (suffix := Path(name).suffix.lower()) in (".npz", ".csv"):
        return suffix[1:]
    if Path(name).expanduser().is_dir():
        return "shards" if Path(name, "index.json").expanduser().is_file() else "images"
    close = difflib.get_close_matches(name.lower(), CLASS_NAMES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"expected {', '.join(map(repr, CLASS_NAMES))} or a path ending in .npz or .csv, or a folder of "
        f"images, got {name!r}{hint}"
    )


def input_scale(name_or_path: _Path) -> float:
    """Return what `load` multiplies the raw inputs of a dataset by, such as 1/255 for bytes.

    Raises what `load` raises for a file that cannot be read.

    >>> input_scale("digits")
    0.0625
    """
    name = os.fspath(name_or_path)
    kind = _kind(name)
    if kind == "digits":
        return 1 / 16
    if kind == "shards":
        return 1 / (_shards(name)[0].top or 1.0)
    if kind in ("published", "images"):
        return 1 / 255
    is_bytes = kind == "npz" and _read_npz(Path(name).expanduser())[0]["x_train"].dtype == np.uint8
    return 1 / 255 if is_bytes else 1.0


def class_names(name_or_path: _Path, *, target: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the labels 0, 1 ... that `load` gives, None where they have none.

    Raises what `load` raises.

    >>> class_names("digits")[:3]
    ('0', '1', '2')
    """
    name = os.fspath(name_or_path)
    kind = _kind(name)
    if kind == "csv":
        return _named_labels(_read_csv(Path(name).expanduser(), target)[1], name)[1]
    if kind == "shards":
        names: tuple[str, ...] | None = _shards(name)[0].class_names
        return names
    if kind == "images":
        return tuple(_image_folders(Path(name).expanduser())[1])
    return CLASS_NAMES.get(name)


def load_digits(*, normalize: bool = True, one_hot_label: bool = False) -> Split:
    """Load the handwritten digits that scikit-learn carries, 8 x 8 pixels, 1,437 to train and 360 to test.

    x is [n, 64]: float32 in 0..1, or uint8 in 0..16 without `normalize`; t int32 [n], or float32 [n, 10].
    Needs no network; the split is shuffled and always the same. Raises ImportError without scikit-learn.

    >>> (x_train, t_train), _ = load_digits(one_hot_label=True)
    >>> x_train.shape, t_train.shape, float(x_train.max())
    ((1437, 64), (1437, 10), 1.0)
    """
    bunches = _extras.require("sklearn.datasets", "digits needs", "data")
    pixels, labels = bunches.load_digits(return_X_y=True)
    x, t = _scaled(pixels.astype(np.uint8), 16, normalize), _targets(labels, 10, one_hot_label)
    return _split(x, t)


def load_mnist(
    directory: _Path | None = None, *, normalize: bool = True, one_hot_label: bool = False
) -> Split:
    """Load MNIST, 28 x 28 handwritten digits, 60,000 to train and 10,000 to test, downloading it if need be.

    x is [n, 784]: float32 in 0..1, or uint8 without `normalize`; t int32 [n], or float32 [n, 10]. The files
    may be compressed or not; wherever they were found, their decompressed bytes must be those published.
    Raises FileNotFoundError where there is no data and none can be downloaded, ValueError for a file in
    `directory` or `$JAXNET_DATA_DIR` that is not MNIST's, ImportError when a download needs pooch.
    """
    return _load_published("mnist", directory, normalize, one_hot_label)


def load_fashion_mnist(
    directory: _Path | None = None, *, normalize: bool = True, one_hot_label: bool = False
) -> Split:
    """Load Fashion-MNIST, 28 x 28 pictures of clothes in ten classes, in everything else like `load_mnist`.

    A download must be the published archives; files of your own are checked by their form only (magic number,
    sizes, labels 0 to 9). `CLASS_NAMES["fashion-mnist"]` names the labels.
    """
    return _load_published("fashion-mnist", directory, normalize, one_hot_label)


def _shards(name: str) -> Any:
    from jaxnet import shards  # which needs this file

    return shards.load(name)


def _load_shards(name: str, normalize: bool, one_hot_label: bool) -> Split:
    parts = _shards(name)
    found = [(part if normalize else replace(part, top=None)).rows(np.arange(len(part))) for part in parts]
    classes = max(int(t.max()) for _, t in found) + 1 if found[0][1].dtype.kind in "iu" else 0
    train, test = ((x, _targets(t, classes, one_hot_label) if classes else t) for x, t in found)
    return train, test


def load_npz(
    path: _Path, *, normalize: bool = True, one_hot_label: bool = False, task: Task = "classification"
) -> Split:
    """Load your own arrays from an `.npz` file: x_train and t_train, and x_test and t_test if it has them.

    x [n, ...] is flattened to [n, d]: uint8 is divided by 255 (and kept as it is without `normalize`), other
    real numbers are cast to float32 as they are. t holds integer labels [n] from 0, or one-hot rows [n,
    classes], or for a regression numbers [n] or [n, outputs], cast to float32; y_train and y_test will do for
    t_train and t_test. Without test arrays, a fixed shuffle puts
    four fifths in train and the rest in test. Nothing is unpickled; other arrays are named on the log.

    Raises ValueError (not an npz file, damaged, an array missing or empty, shapes that disagree, NaN or
    infinity, labels that are negative, start at 1, or are no classes, such as IDs, rows that are not one-hot)
    and TypeError (x not real numbers, labels not whole numbers, uint8 in only one of x_train and x_test);
    each message names the file and the array.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mine.npz", x_train=np.ones((10, 2, 2)), t_train=np.arange(10))
    ...     (x_train, t_train), (x_test, t_test) = load_npz(f"{folder}/mine.npz")
    >>> x_train.shape, t_train.shape, x_test.shape, t_test.shape
    ((8, 4), (8,), (2, 4), (2,))
    """
    _check_task(task, one_hot_label)
    arrays, unknown = _read_npz(Path(path).expanduser())
    if unknown:
        _log.warning("%s: not used: %s", path, ", ".join(unknown))
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
    xs = [_features(arrays[f"x_{part}"], f"{path}: x_{part}", normalize) for part in parts]
    if task == "regression":
        ts = tuple(_numbers(arrays[f"t_{part}"], f"{path}: t_{part}") for part in parts)
        widths = tuple(t.shape[1:] for t in ts)
        if len(set(widths)) > 1:
            raise ValueError(f"{path}: expected t_test with the outputs of t_train, got {widths}")
    else:
        ts, widths = zip(*(_labels(arrays[f"t_{part}"], f"{path}: t_{part}") for part in parts), strict=True)
    for part, x, t in zip(parts, xs, ts, strict=True):
        if len(x) != len(t):
            raise ValueError(f"{path}: expected t_{part} as long as x_{part}, {len(x)} rows, got {len(t)}")
    if task == "classification":
        if not any(widths):
            _check_classes(np.concatenate(ts), f"{path}: t_train")
        classes = max(*widths, *(int(t.max()) + 1 for t in ts))
        ts = tuple(_targets(t, classes, one_hot_label) for t in ts)
    if len(xs) == 1:
        return _split(xs[0], ts[0], path)
    features, got = (x.shape[1] for x in xs)
    if features != got:
        raise ValueError(f"{path}: expected x_test with the {features} features of x_train, got {got}")
    types = [arrays[f"x_{part}"].dtype for part in parts]
    if len({dtype == np.uint8 for dtype in types}) == 2:  # only one of them would be divided by 255
        raise TypeError(
            f"{path}: expected x_train and x_test both uint8 or neither, got {types[0]} and {types[1]}"
        )
    return (xs[0], ts[0]), (xs[1], ts[1])


def load_csv(
    path: _Path, *, target: str | None = None, one_hot_label: bool = False, task: Task = "classification"
) -> Split:
    """Load a table of comma-separated values with names in its first line (needs pandas, extra `[tables]`).

    target: the column that is t, by default the last; every other is a feature, of numbers. For classes, the
    values of the target that occur are numbered in their order, text by the alphabet: `class_names` says
    which. A fixed shuffle puts four fifths in train and the rest in test.

    Raises ValueError (no table, no such column, a cell without a value, a target that is no classes),
    TypeError (a feature or a regression's target that is not numbers) and ImportError without pandas; each
    message names the file and the column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "mine.csv").write_text("size,kind\\n" + "1.5,cat\\n3,dog\\n" * 5)
    ...     (x_train, t_train), test = load_csv(f"{folder}/mine.csv")
    >>> x_train.shape, t_train[:4], len(test[0])
    ((8, 1), array([0, 0, 0, 1], dtype=int32), 2)
    """
    _check_task(task, one_hot_label)
    frame, column = _read_csv(Path(path).expanduser(), target)
    for name, values in frame.items():
        if values.dtype.kind not in "buif":
            wanted = f"numbers in all columns but {column.name!r}, the target"
            raise TypeError(f"{path}: expected {wanted}, got text in {name!r}")
        if values.isna().any():
            row = int(values.isna().argmax())
            raise ValueError(f"{path}: expected a value in each row, got none in row {row} of {name!r}")
    x = _features(frame.to_numpy(np.float64), str(path), False)
    if task == "regression":
        return _split(x, _numbers(column.to_numpy(), f"{path}: {column.name}"), path)
    labels, names = _named_labels(column, str(path))
    return _split(x, _targets(labels, len(names), one_hot_label), path)


def load_images(folder: _Path, *, normalize: bool = True, one_hot_label: bool = False) -> Split:
    """Load a folder that has one of images for each class (needs Pillow, extra `[images]`).

    The classes are numbered in the alphabetical order of their folders: `class_names` says which. x is [n,
    rows · columns] of grey images and [n, rows · columns · 3] of coloured ones: float32 in 0..1, or uint8
    without `normalize`. A folder that has only `train` and `test`, each with one for each class, says which
    images are which; else a fixed shuffle puts four fifths in train.

    Raises ValueError (no classes or images, a file that is no image of 8 bits, images of different sizes) and
    ImportError without Pillow; each message names the file.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat/0", "cat/1", "dog/0"):
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (4, 4)).save(f"{folder}/{name}.png")
    ...     (x_train, t_train), (x_test, t_test) = load_images(folder)
    >>> x_train.shape, x_test.shape
    ((2, 48), (1, 48))
    """
    _extras.require("PIL.Image", "folders of images need", "images")
    parts, names = _image_folders(Path(folder).expanduser())
    first: tuple[Path, tuple[int, ...]] | None = None
    found: dict[Path, tuple[list[Array], list[int]]]
    first, found = None, {part: ([], []) for part in parts}
    for part, label, path, image in images_of(folder):
        first = first or (path, image.shape)
        if image.shape != first[1]:
            expected, got = _shape(first[1]), _shape(image.shape)
            raise ValueError(f"{path}: expected {expected}, as {first[0].name} has, got {got}")
        images, labels = found[part]
        images.append(image.reshape(-1))
        labels.append(label)
    examples = []
    for images, labels in found.values():
        x = _scaled(np.stack(images), 255, normalize)
        examples.append((x, _targets(np.array(labels), len(names), one_hot_label)))
    return (examples[0], examples[1]) if len(examples) == 2 else _split(*examples[0], folder)


def images_of(folder: _Path) -> Iterator[tuple[Path, int, Path, Array]]:
    """Yield each image of a folder by class: its part, that folder or one in it, label, path and bytes."""
    pillow = _extras.require("PIL.Image", "folders of images need", "images")
    parts, names = _image_folders(Path(folder).expanduser())
    for part in parts:
        count = 0
        for label, name in enumerate(names):
            for path in sorted((part / name).iterdir()) if (part / name).is_dir() else ():
                if not path.name.startswith("."):
                    count += 1
                    yield part, label, path, _read_image(path, pillow)
        if not count:
            raise ValueError(f"{part}: expected images in the folders of its classes, got none")


def published_files(name_or_folder: _Path) -> list[Path] | None:
    """Return the files of train images, train labels, test images, test labels, where a folder has all four.

    name_or_folder: a folder, or "mnist" or "fashion-mnist", looked for and downloaded as `load` does.
    """
    name = os.fspath(name_or_folder)
    folders = [Path(name).expanduser()]
    if name in _SOURCES:
        folders = [Path(os.environ.get("JAXNET_DATA_DIR") or "", name).expanduser(), _cache_folder(name)]
        if all(_missing(folder, _SOURCES[name]) for folder in folders):
            _load_published(name, None, False, False)
    for folder in folders:
        found = [_find(folder, file.name) for file in _FILES]
        if all(found):
            return [path for path in found if path is not None]
    return None


def features(x: Array, name: str) -> Array:
    """Return finite real numbers [n, ...] as float32 [n, d]; ValueError or TypeError for others."""
    return _features(x, name, False)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (" grey" if len(shape) == 2 else "") + " pixels"


def _image_folders(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the folder, or those of train and test in it, and the names of the classes."""

    def folders(path: Path) -> list[str]:
        return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))

    found = folders(folder)
    parts = [folder / "train", folder / "test"] if found == ["test", "train"] else [folder]
    names = folders(parts[0])
    if len(names) < 2:
        raise ValueError(f"{parts[0]}: expected a folder for each class, got {', '.join(names) or 'none'}")
    if unknown := sorted(set(folders(parts[-1])) - set(names)):
        raise ValueError(f"{parts[-1]}: expected the classes of train, {', '.join(names)}, got {unknown[0]}")
    return parts, names


def _read_image(path: Path, pillow: Any) -> Array:
    """Return the bytes [rows, columns] or [rows, columns, 3] of an image."""
    try:
        with pillow.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"a mode of more than 8 bits, {image.mode}")
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected an image of 8 bits, got {' '.join(str(error).split())}") from None


def _read_csv(path: Path, target: str | None) -> tuple[Any, Any]:
    """Return the columns of features and that of the target."""
    pandas = _extras.require("pandas", ".csv files need", "tables")
    try:
        frame = pandas.read_csv(path)
    except ValueError as error:  # pandas' own and that of bytes that are no text
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected comma-separated values, got what cannot be read ({reason})"
        ) from None
    names = list(frame.columns)
    if len(names) < 2 or not len(frame):
        raise ValueError(f"{path}: expected two columns or more, and rows, got {len(names)} and {len(frame)}")
    if target is not None and target not in names:
        raise ValueError(f"{path}: expected a column {target!r}, got {', '.join(map(repr, names))}")
    column = frame[names[-1] if target is None else target]
    if column.isna().any():
        raise ValueError(
            f"{path}: expected a value in each row of the target, {column.name!r}, got none in row "
            f"{int(column.isna().argmax())}"
        )
    return frame.drop(columns=[column.name]), column


def _named_labels(column: Any, path: str) -> tuple[Array, tuple[str, ...]]:
    """Return the values of a column as numbers from 0, and what they stand for."""
    values, name = column.to_numpy(), f"{path}: {column.name}"
    text = values if values.dtype.kind in "buif" else values.astype(str)
    names, labels = np.unique(text, return_inverse=True)
    if values.dtype.kind == "f" and ((names != np.rint(names)).any() or len(names) > _FEW_CLASSES):
        raise TypeError(f"{name}: expected classes, got {len(names)} different {values.dtype}; {_NO_CLASSES}")
    _check_classes(labels, name)
    return labels, tuple(map(str, names.tolist()))


def _numbers(t: Array, name: str) -> Array:
    """Check the targets of a regression; return them as float32 [n] or [n, outputs]."""
    if t.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected real numbers, got {t.dtype}")
    if t.ndim not in (1, 2):
        raise ValueError(f"{name}: expected numbers [n] or [n, outputs], got shape {t.shape}")
    found = _features(t.astype(np.float64), name, False)
    return found[:, 0] if found.shape[1] == 1 else found


def _check_task(task: str, one_hot_label: bool) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if task == "regression" and one_hot_label:
        raise ValueError("one_hot_label is of classes, got it with task 'regression'")


def read_idx(path: _Path, *, shape: tuple[int, ...] | None = None, sha256: str | None = None) -> Array:
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


def split(
    examples: tuple[ArrayLike, ArrayLike],
    fraction: float,
    seed: int = 0,
    *,
    stratify: ArrayLike | None = None,
) -> Split:
    """Split examples `(x, t)` at random into the rest and a `fraction` of them, held out for validation.

    The same seed gives the same split, in NumPy arrays; rows of x and t belong together by their position.
    stratify: labels [n] (or rows), such as t itself, whose classes keep their shares in both parts: each
    class's number is rounded by the largest remainder, as scikit-learn's `train_test_split` does.

    Raises ValueError for a fraction that is not between 0 and 1 or leaves either part empty, for x, t and
    stratify that are not as long, and for a class to stratify by with a single example; TypeError for what is
    not numbers.

    >>> train, validation = split((np.arange(10.0), np.arange(10)), 0.2)
    >>> len(train[0]), validation[1]
    (8, array([0, 5]))
    >>> t = np.arange(10) // 8
    >>> split((np.arange(10.0), t), 0.5, stratify=t)[1][1].tolist()
    [0, 1, 0, 0, 0]
    """
    x, t = map(np.asarray, _arrays.as_pair(examples, "examples"))
    held_out = round(len(x) * fraction) if 0 < fraction < 1 else 0
    if not 0 < held_out < len(x):
        raise ValueError(
            f"fraction must be between 0 and 1 and leave examples in both parts, got {fraction} of {len(x)}"
        )
    if stratify is None:
        return _parts(x, t, held_out, seed)
    rows = _shuffled_by_class(stratify, len(x), 2, seed)
    shares = np.array([len(of_class) for of_class in rows]) * held_out / len(x)
    counts = shares.astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: held_out - counts.sum()]] += 1
    chosen = np.concatenate([of_class[:count] for of_class, count in zip(rows, counts, strict=True)])
    return _held_out(x, t, chosen, seed)


def folds(
    examples: tuple[ArrayLike, ArrayLike], k: int = 5, seed: int = 0, *, stratify: ArrayLike | None = None
) -> Iterator[Split]:
    """Yield k splits of examples `(x, t)`, each as `split` returns one, that hold out every example once.

    Their sizes differ by one at most, and with `stratify` those of each class too, as those of scikit-learn's
    `StratifiedKFold` do; the same seed gives the same folds.

    Raises ValueError for a k below 2 or above the number of examples, or of those of a class to stratify by,
    and what `split` raises.

    >>> [held_out[1].tolist() for _, held_out in folds((np.arange(5.0), np.arange(5)), 2)]
    [[2, 1, 4], [0, 3]]
    """
    x, t = map(np.asarray, _arrays.as_pair(examples, "examples"))
    if not 2 <= k <= len(x):
        raise ValueError(f"k must be in 2..{len(x)}, the number of examples, got {k}")
    classes = np.zeros(len(x), int) if stratify is None else stratify
    # Dealt out one after the other, class after class.
    dealt = np.concatenate(_shuffled_by_class(classes, len(x), k, seed))
    return (_held_out(x, t, dealt[i::k], seed) for i in range(k))


def _shuffled_by_class(labels: ArrayLike, num_examples: int, at_least: int, seed: int) -> list[Array]:
    """Return the shuffled rows of each class, each with as many examples as that at least."""
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != num_examples:
        raise ValueError(f"stratify must be a label of each of {num_examples} examples, got {labels.shape}")
    names, classes = np.unique(labels, axis=0, return_inverse=True)
    order = np.random.RandomState(seed).permutation(num_examples)
    classes = classes.reshape(-1)[order]  # NumPy 2.0 alone gives [n, 1]
    rows = [order[classes == index] for index in range(len(names))]
    fewest = min(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[fewest]) < at_least:
        raise ValueError(
            f"stratify must have {at_least} examples of each class or more, got {len(rows[fewest])} of class "
            f"{names[fewest].tolist()}"
        )
    return rows


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
        _check_expansion(file.name, len(raw), size)
    data = start_of(size + 1) if packed else raw
    if len(data) != size:
        got = "more" if packed and len(data) > size else str(len(data))
        raise ValueError(f"{file.name}: expected {size} bytes for {_described(shape)}, got {got}")
    hashed = ((file.sha256, data, "decompressed bytes"), (file.archive_sha256, raw, "archive"))
    for published, content, what in hashed:
        if published is not None and (got := hashlib.sha256(content).hexdigest()) != published:
            raise ValueError(f"{file.name}: expected sha256 {published} of the {what}, got {got}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _check_expansion(name: str, packed: int, size: int) -> None:
    """Refuse at once what would fill the memory: no data become five hundred times as large unpacked."""
    if size > max(500 * packed, 2**30):
        raise ValueError(f"{name}: expected data, got {packed} bytes that would unpack to {size}")


def _described(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (" labels" if len(shape) == 1 else " images")


def _load_published(name: str, directory: _Path | None, normalize: bool, one_hot_label: bool) -> Split:
    source = _SOURCES[name]
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
        x = _scaled(images.reshape(len(images), -1), 255, normalize)
        pairs.append((x, _targets(labels, 10, one_hot_label)))
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


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an empty array at a multiple of 64 bytes: JAX trains on it where it is, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    data = np.empty(size + 64, np.uint8)
    start = -data.ctypes.data % 64
    return data[start : start + size].view(dtype).reshape(shape)


def _copied(x: Array, dtype: DTypeLike) -> Array:
    copy = aligned(x.shape, dtype)
    np.copyto(copy, x, casting="unsafe")
    return copy


def _rows(x: Array, rows: Array) -> Array:
    # Other modes than "clip" would buffer what they write.
    return np.take(x, rows, axis=0, out=aligned((len(rows), *x.shape[1:]), x.dtype), mode="clip")


def _scaled(x: Array, top: int, normalize: bool) -> Array:
    if not normalize:
        return _copied(x, np.uint8)
    # A division: multiplying by the reciprocal rounds differently.
    return np.divide(x, np.float32(top), out=aligned(x.shape, np.float32))


def _targets(labels: Array, classes: int, one_hot_label: bool) -> Array:
    if not one_hot_label:
        return labels.astype(np.int32)
    one_hot = np.zeros((len(labels), classes), np.float32)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot


def _split(x: Array, t: Array, path: _Path = "digits") -> Split:
    """Shuffle and split, four fifths to one fifth, always alike."""
    if len(x) < 2:
        raise ValueError(f"{path}: expected 2 rows or more to split into train and test, got {len(x)}")
    return _parts(x, t, len(x) - len(x) * 4 // 5, 0)


def _parts(x: Array, t: Array, held_out: int, seed: int) -> Split:
    # RandomState's stream never changes between NumPy versions; a Generator's may (NEP 19).
    return _held_out(x, t, np.random.RandomState(seed).permutation(len(x))[len(x) - held_out :], seed)


def _held_out(x: Array, t: Array, chosen: Array, seed: int) -> Split:
    """Return the other rows and the chosen ones, both shuffled."""
    order = np.random.RandomState(seed).permutation(len(x))
    held = np.isin(order, chosen)
    rest, chosen = order[~held], order[held]
    return (_rows(x, rest), t[rest]), (_rows(x, chosen), t[chosen])


def _read_npz(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Read x_train, t_train and, if there are, x_test, t_test, unchecked; and name the other arrays."""
    with path.open("rb") as file:
        start = file.read(4)
        if start[:2] != b"PK":
            got = f"a file that starts with {start!r}" if start else "an empty file"
            raise ValueError(f"{path}: expected an npz file, got {got}")
        file.seek(0)
        with _damage_named(path):
            archive = np.load(file, allow_pickle=False)
        names, stored = list(archive.files), dict[str, str]()
        for name in names:
            array = re.sub("^y_", "t_", name)
            if array in stored:
                raise ValueError(f"{path}: expected {array} or {array.replace('t_', 'y_', 1)}, got both")
            if array in ("x_train", "t_train", "x_test", "t_test"):
                stored[array] = name
        expected = [
            "x_train",
            "t_train",
            *(["x_test", "t_test"] if {"x_test", "t_test"} & set(stored) else []),
        ]
        if missing := [array for array in expected if array not in stored]:
            raise ValueError(
                f"{path}: expected {' and '.join(missing)}, got only {', '.join(names) or 'nothing'}"
            )
        for name in stored.values():
            info = archive.zip.getinfo(f"{name}.npy")
            _check_expansion(f"{path}: {name}", info.compress_size, info.file_size)
        with _damage_named(path):
            found = {name: np.asarray(archive[key]) for name, key in stored.items()}
    return found, [name for name in names if name not in stored.values()]


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # of damaged bytes zipfile, zlib and NumPy raise a dozen unrelated types
        raise ValueError(
            f"{path}: expected a whole npz file of plain arrays, got one that cannot be read "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None


def _features(x: Array, name: str, normalize: bool) -> Array:
    """Check and flatten x to [n, d]."""
    if x.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{name}: expected an array [n, ...] that is not empty, got shape {x.shape}")
    flat = x.reshape(len(x), -1)
    if x.dtype == np.uint8:
        return _scaled(flat, 255, normalize)
    with np.errstate(over="ignore"):  # what is too large for float32 is counted below
        flat = _copied(flat, np.float32)
    finite = np.isfinite(flat)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(
            f"{name}: expected finite float32 numbers, got {count} NaN or infinite, in {len(rows)} rows, "
            f"the first in row {rows[0]}"
        )
    return flat


def _labels(t: Array, name: str) -> tuple[Array, int]:
    """Check labels [n] or one-hot rows [n, classes]; return labels [n] and the classes of rows, else 0."""
    if t.ndim == 2 and t.shape[1] == 1:
        t = t[:, 0]  # a column of labels, as some datasets have it
    if t.ndim == 1 and t.dtype.kind in "bf" and (t == np.rint(t)).all() and (abs(t) < 2**53).all():
        t = t.astype(np.int64)
    if t.ndim not in (1, 2) or t.size == 0:
        raise ValueError(f"{name}: expected labels [n] or one-hot rows [n, classes], got shape {t.shape}")
    if t.dtype.kind not in ("iu" if t.ndim == 1 else "buif"):
        raise TypeError(
            f"{name}: expected integer labels [n] or one-hot rows [n, classes], got {t.dtype} {t.shape}; "
            f"{_NO_CLASSES}"
        )
    if t.ndim == 2:
        good = ((t == 0) | (t == 1)).all(axis=1) & (np.count_nonzero(t, axis=1) == 1)
        if not good.all():
            row = int(good.argmin())
            raise ValueError(
                f"{name}: expected one-hot rows, of zeros and a single 1, got {t[row].tolist()} in row {row}"
            )
        return t.argmax(axis=1), t.shape[1]
    for row in (int(t.argmin()), int(t.argmax())):
        if not 0 <= t[row] < 2**31:
            raise ValueError(f"{name}: expected labels from 0 to {2**31 - 1}, got {t[row]} in row {row}")
    return t, 0


def _check_classes(labels: Array, name: str) -> None:
    """Refuse labels that do not number classes from 0, above all IDs and the integers of a regression."""
    occur, rows = np.unique(labels), len(labels)
    first, last = occur[0], occur[-1]
    if first == 1 and last == len(occur):
        raise ValueError(f"{name}: expected labels from 0, got 1 to {last}: subtract 1 from each")
    if last >= _FEW_CLASSES and not last / 2 < len(occur) < rows / 2:
        raise ValueError(
            f"{name}: expected labels 0, 1, 2 ... of classes with several examples each, got {len(occur)} "
            f"different ones from {first} to {last} in {rows} rows; {_NO_CLASSES}"
        )
