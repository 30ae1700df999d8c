"""Your own arrays in `.npz` files, and tables in `.csv` files."""

import logging
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import _extras
from jaxnet._names import Task
from jaxnet.datasets.arrays import (
    FEW_CLASSES,
    NO_CLASSES,
    Array,
    Split,
    StrPath,
    as_labels,
    as_numbers,
    check_classes,
    check_expansion,
    check_task,
    class_targets,
    features,
)
from jaxnet.datasets.splits import four_to_one

_log = logging.getLogger(__name__)
# What zipfile, zlib and NumPy raise of damaged bytes: Python's parser reads an array's header.
_DAMAGE: list[type[Exception]] = [ValueError, TypeError, OverflowError, OSError, EOFError, RuntimeError]
_DAMAGE += [SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error]
with suppress(ImportError):  # where Python has it, an archive may be packed by it
    from lzma import LZMAError

    _DAMAGE.append(LZMAError)


def load_npz(
    path: StrPath, *, normalize: bool = True, one_hot_label: bool = False, task: Task = "classification"
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
    check_task(task, one_hot_label)
    arrays, unknown = read_npz(Path(path).expanduser())
    if unknown:
        _log.warning("%s: not used: %s", path, ", ".join(unknown))
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
    xs = [features(arrays[f"x_{part}"], f"{path}: x_{part}", normalize) for part in parts]
    if task == "regression":
        ts = tuple(as_numbers(arrays[f"t_{part}"], f"{path}: t_{part}") for part in parts)
        widths = tuple(t.shape[1:] for t in ts)
        if len(set(widths)) > 1:
            raise ValueError(f"{path}: expected t_test with the outputs of t_train, got {widths}")
    else:
        ts, widths = zip(
            *(as_labels(arrays[f"t_{part}"], f"{path}: t_{part}") for part in parts), strict=True
        )
    for part, x, t in zip(parts, xs, ts, strict=True):
        if len(x) != len(t):
            raise ValueError(f"{path}: expected t_{part} as long as x_{part}, {len(x)} rows, got {len(t)}")
    if task == "classification":
        if not any(widths):
            check_classes(np.concatenate(ts), f"{path}: t_train")
        classes = max(*widths, *(int(t.max()) + 1 for t in ts))
        ts = tuple(class_targets(t, classes, one_hot_label) for t in ts)
    if len(xs) == 1:
        return four_to_one(xs[0], ts[0], path)
    width, got = (x.shape[1] for x in xs)
    if width != got:
        raise ValueError(f"{path}: expected x_test with the {width} features of x_train, got {got}")
    types = [arrays[f"x_{part}"].dtype for part in parts]
    if len({dtype == np.uint8 for dtype in types}) == 2:  # only one of them would be divided by 255
        raise TypeError(
            f"{path}: expected x_train and x_test both uint8 or neither, got {types[0]} and {types[1]}"
        )
    return (xs[0], ts[0]), (xs[1], ts[1])


def load_csv(
    path: StrPath, *, target: str | None = None, one_hot_label: bool = False, task: Task = "classification"
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
    check_task(task, one_hot_label)
    frame, column = read_csv_file(Path(path).expanduser(), target)
    x = _inputs(frame, path, f" but {column.name!r}, the target")
    if task == "regression":
        return four_to_one(x, as_numbers(column.to_numpy(), f"{path}: {column.name}"), path)
    labels, names = named_labels(column, str(path))
    return four_to_one(x, class_targets(labels, len(names), one_hot_label), path)


def _inputs(frame: Any, path: StrPath, but: str = "") -> Array:
    for name, values in frame.items():
        if values.dtype.kind not in "buif":
            raise TypeError(f"{path}: expected numbers in all columns{but}, got text in {name!r}")
        if values.isna().any():
            row = int(values.isna().argmax())
            raise ValueError(f"{path}: expected a value in each row, got none in row {row} of {name!r}")
    return features(frame.to_numpy(np.float64), str(path))


def rows_of_inputs(path: Path, inputs: int, target: str | None) -> Array:
    """Return the rows of a table without its target, where it has that too, as `load_csv` reads them."""
    frame = _frame(path)
    names = list(frame.columns)
    if len(names) == inputs + 1:
        frame = frame.drop(columns=[target if target in names else names[-1]])
    elif len(names) != inputs:
        raise ValueError(
            f"{path}: expected {inputs} columns of inputs, and one of targets or none, got {len(names)}"
        )
    return _inputs(frame, path)


def _frame(path: Path) -> Any:
    pandas = _extras.require("pandas", ".csv files need", "tables")
    try:
        return pandas.read_csv(path)
    except ValueError as error:  # pandas' own and that of bytes that are no text
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected comma-separated values, got what cannot be read ({reason})"
        ) from None


def read_csv_file(path: Path, target: str | None) -> tuple[Any, Any]:
    """Return the columns of features and that of the target."""
    frame = _frame(path)
    names = list(frame.columns)
    if len(names) < 2 or not len(frame):
        got = f"{len(frame)} of {', '.join(map(repr, names))}"
        raise ValueError(f"{path}: expected two columns or more, parted by commas, and rows, got {got}")
    if target is not None and target not in names:
        raise ValueError(f"{path}: expected a column {target!r}, got {', '.join(map(repr, names))}")
    column = frame[names[-1] if target is None else target]
    if column.isna().any():
        raise ValueError(
            f"{path}: expected a value in each row of the target, {column.name!r}, got none in row "
            f"{int(column.isna().argmax())}"
        )
    return frame.drop(columns=[column.name]), column


def named_labels(column: Any, path: str) -> tuple[Array, tuple[str, ...]]:
    """Return the values of a column as numbers from 0, and what they stand for."""
    values, name = column.to_numpy(), f"{path}: {column.name}"
    text = values if values.dtype.kind in "buif" else values.astype(str)
    names, labels = np.unique(text, return_inverse=True)
    if values.dtype.kind == "f" and ((names != np.rint(names)).any() or len(names) > FEW_CLASSES):
        raise TypeError(f"{name}: expected classes, got {len(names)} different {values.dtype}; {NO_CLASSES}")
    check_classes(labels, name, names)
    return labels, tuple(map(str, names.tolist()))


def read_npz(path: Path) -> tuple[dict[str, Array], list[str]]:
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
            check_expansion(f"{path}: {name}", info.compress_size, info.file_size)
        with _damage_named(path):
            found = {name: np.asarray(archive[key]) for name, key in stored.items()}
    return found, [name for name in names if name not in stored.values()]


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:  # too little of it, or a header that lies
        raise MemoryError(f"{path}: {error}") from None
    except tuple(_DAMAGE) as error:
        raise ValueError(
            f"{path}: expected a whole npz file of plain arrays, got one that cannot be read "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
