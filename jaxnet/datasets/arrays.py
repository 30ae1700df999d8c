"""Arrays of inputs and targets: checked, converted, aligned for JAX."""

import math
import os
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import DTypeLike

from jaxnet._names import Task

StrPath: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Split: TypeAlias = tuple[tuple[Array, Array], tuple[Array, Array]]
FEW_CLASSES = 100  # up to which it does not matter that some have no examples
_FEW_ROWS = 20  # below which classes may have one example each
NO_CLASSES = (
    "number the classes that occur, as np.unique(t, return_inverse=True)[1] does, or, for a regression, "
    "load with task='regression' (--task regression)"
)


def as_numbers(t: Array, name: str) -> Array:
    """Check the targets of a regression; return them as float32 [n] or [n, outputs]."""
    if t.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected real numbers, got {t.dtype}")
    if t.ndim not in (1, 2):
        raise ValueError(f"{name}: expected numbers [n] or [n, outputs], got shape {t.shape}")
    found = features(t.astype(np.float64), name)
    return found[:, 0] if found.shape[1] == 1 else found


def check_task(task: str, one_hot_label: bool) -> None:
    """Refuse a task that is none, and one-hot targets of a regression."""
    if task not in get_args(Task):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if task == "regression" and one_hot_label:
        raise ValueError("one_hot_label is of classes, got it with task 'regression'")


def check_expansion(name: str, packed: int, size: int) -> None:
    """Refuse at once what would fill the memory: no data become five hundred times as large unpacked."""
    if size > max(500 * packed, 2**30):
        raise ValueError(f"{name}: expected data, got {packed} bytes that would unpack to {size}")


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an empty array at a multiple of 64 bytes: JAX trains on it where it is, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    data = np.empty(size + 64, np.uint8)
    start = -data.ctypes.data % 64
    return data[start : start + size].view(dtype).reshape(shape)


def copied(x: Array, dtype: DTypeLike) -> Array:
    """Return an aligned copy of another type."""
    copy = aligned(x.shape, dtype)
    np.copyto(copy, x, casting="unsafe")
    return copy


def rows_of(x: Array, rows: Array) -> Array:
    """Return an aligned copy of some rows."""
    # Other modes than "clip" would buffer what they write.
    return np.take(x, rows, axis=0, out=aligned((len(rows), *x.shape[1:]), x.dtype), mode="clip")


def scaled(x: Array, top: int, normalize: bool) -> Array:
    """Return an aligned copy of inputs from 0 to top: of 0 to 1, or without normalize of bytes."""
    if not normalize:
        return copied(x, np.uint8)
    # A division: multiplying by the reciprocal rounds differently.
    return np.divide(x, np.float32(top), out=aligned(x.shape, np.float32))


def class_targets(labels: Array, classes: int, one_hot_label: bool) -> Array:
    """Return labels [n] as int32, or one-hot rows, float32 [n, classes]."""
    if not one_hot_label:
        return labels.astype(np.int32)
    one_hot = np.zeros((len(labels), classes), np.float32)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot


def features(x: Array, name: str, normalize: bool = False) -> Array:
    """Return finite real numbers [n, ...] as float32 [n, d]; ValueError or TypeError for others.

    Bytes are divided by 255 with normalize, else kept.
    """
    if x.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{name}: expected an array [n, ...] that is not empty, got shape {x.shape}")
    flat = x.reshape(len(x), -1)
    if x.dtype == np.uint8:
        return scaled(flat, 255, normalize)
    with np.errstate(over="ignore"):  # what is too large for float32 is counted below
        flat = copied(flat, np.float32)
    finite = np.isfinite(flat)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(
            f"{name}: expected finite float32 numbers, got {count} NaN or infinite, in {len(rows)} rows, "
            f"the first in row {rows[0]}"
        )
    return flat


def as_labels(t: Array, name: str) -> tuple[Array, int]:
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
            f"{NO_CLASSES}"
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


def check_classes(labels: Array, name: str, values: Array | None = None) -> None:
    """Refuse labels that do not number classes from 0, above all IDs and the integers of a regression.

    values: what the labels stand for, where they were numbered.
    """
    occur, rows = np.unique(labels), len(labels)
    first, last = occur[0], occur[-1]
    if first == 1 and last == len(occur):
        raise ValueError(f"{name}: expected labels from 0, got 1 to {last}: subtract 1 from each")
    alone = rows >= _FEW_ROWS and len(occur) > rows / 2
    if alone or (last >= FEW_CLASSES and not last / 2 < len(occur) < rows / 2):
        first, last = (first, last) if values is None else (values[0], values[-1])
        raise ValueError(
            f"{name}: expected labels 0, 1, 2 ... of classes with several examples each, got {len(occur)} "
            f"different ones from {first} to {last} in {rows} rows; {NO_CLASSES}"
        )
