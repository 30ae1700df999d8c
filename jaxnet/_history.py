"""The history of a run as an append-only `history.csv`: a line per step, metrics where they were taken."""

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.training import History, Stretch

PARTS = History._fields[2:]  # "train", "test" ...: metrics by name


class Mark(NamedTuple):
    """How far a history goes and what it holds up to there, to be kept in a checkpoint."""

    rows: int
    size: int  # bytes
    sha256: str
    dtypes: dict[str, Any]  # {"loss": "float32", "train": {"accuracy": "float32"} ...}


def piece(stretch: Stretch) -> tuple[int, History]:
    """Return the first step of a stretch and its history."""
    end = int(stretch.state.step)
    measured = {part: getattr(stretch, part) for part in PARTS}
    curves = {part: {name: np.array([value]) for name, value in measured[part].items()} for part in PARTS}
    steps = [end - 1] if any(curves.values()) else []
    return end - len(stretch.loss), History(stretch.loss, np.array(steps, int), **curves)


class HistoryFile:
    """The file, and how far it goes; only one process may write it."""

    def __init__(self, path: Path, mark: Mark | None = None):
        """Begin an empty file, or cut the one that is there to `mark`, to which `read` has shown it whole."""
        self.path = path
        self.rows, self._size, self._dtypes = (mark.rows, mark.size, mark.dtypes) if mark else (0, 0, {})
        self._hash = hashlib.sha256(path.read_bytes()[: self._size] if mark else b"")
        with path.open("ab") as file:
            file.truncate(self._size)

    def append(self, first: int, history: History) -> Mark:
        """Add those steps of a history, the first of which is `first`, that the file does not have yet."""
        if first > self.rows:
            raise ValueError(
                f"{self.path} ends with step {self.rows - 1}, got step {first}: resume from the checkpoint"
            )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        curves = {part: getattr(history, part) for part in PARTS}
        if not self.rows:
            self._dtypes = {"loss": str(history.loss.dtype)}
            self._dtypes |= {
                part: {name: str(curve.dtype) for name, curve in curves[part].items()} for part in PARTS
            }
            writer.writerow(("step", "loss", *(f"{part}_{name}" for part in PARTS for name in curves[part])))
        columns = [curves[part][name] for part in PARTS for name in curves[part]]
        evaluations = {int(step): row for step, *row in zip(history.eval_step, *columns, strict=True)}
        blank = [""] * sum(len(self._dtypes[part]) for part in PARTS)
        start = self.rows - first
        for step, loss in enumerate(history.loss[start:], first + start):
            writer.writerow((step, loss, *evaluations.get(step, blank)))
        data = text.getvalue().encode()
        try:
            with self.path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self._hash.update(data)
        self._size += len(data)
        self.rows = max(self.rows, first + len(history.loss))
        return Mark(self.rows, self._size, self._hash.hexdigest(), self._dtypes)

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def read(path: Path, mark: Mark) -> History:
    """Return the history up to the mark, bit for bit as it was written; ValueError if it was changed."""
    try:
        data = path.read_bytes()[: mark.size]
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != mark.sha256:
        raise ValueError(f"{path.name} is not what it was, up to step {mark.rows - 1}")
    rows = list(csv.reader(io.StringIO(data.decode())))[1:]
    evaluated = [row for row in rows if any(row[2:])]

    def column(rows: list[list[str]], index: int, dtype: str) -> np.ndarray:
        # Through float64, as bfloat16 does not parse text; the digits name one number of either.
        return np.array([row[index] for row in rows], np.float64).astype(dtype)

    index = 2
    curves: dict[str, dict[str, np.ndarray]] = {}
    for part in PARTS:
        curves[part] = {}
        for name, dtype in mark.dtypes[part].items():
            curves[part][name] = column(evaluated, index, dtype)
            index += 1
    steps = np.array([int(row[0]) for row in evaluated], int)
    return History(column(rows, 1, mark.dtypes["loss"]), steps, **curves)
