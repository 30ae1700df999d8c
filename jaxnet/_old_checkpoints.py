"""Checkpoints as release 0.1 wrote them: a folder for each step, read for one release more."""

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import _tensors

_SUMS, _STATE, _PARTS = "SHA256SUMS", "state.safetensors", ("train", "test", "validation")
_NAMES = (_SUMS, _STATE, "_CHECKPOINT_METADATA")


def steps(folder: Any) -> list[int]:
    """Return the steps of which a run folder holds such checkpoints."""
    paths = Path(folder, "checkpoints").glob(f"*/{_STATE}")
    return [int(path.parent.name) for path in paths if path.parent.name.isdecimal()]


def files(folder: Path) -> list[Path]:
    """Return the files of such checkpoints."""
    return [folder / "checkpoints" / str(step) / name for step in steps(folder) for name in _NAMES]


def content(folder: Path, step: int) -> tuple[_tensors.Arrays, dict[str, Any], str]:
    """Return arrays and metadata as of a checkpoint of today, or say that this one is damaged."""
    path = folder / "checkpoints" / str(step)
    if not (path / _SUMS).exists():
        raise _tensors.DamagedError(f"{path}: not finished when the run ended")
    for line in (path / _SUMS).read_text(errors="replace").splitlines():
        file = path / line[66:]
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != line[:64]:
            raise _tensors.DamagedError(f"{path} is damaged in {line[66:]}")
    arrays, metadata = _tensors.unpack((path / _STATE).read_bytes(), str(path / _STATE))
    history = folder / "history.csv"
    data = history.read_bytes()[: metadata["size"]] if history.exists() else b""
    if hashlib.sha256(data).hexdigest() != metadata["sha256"]:
        raise _tensors.DamagedError(f"{path} does not count: history.csv is not what it was")
    rows = list(csv.reader(io.StringIO(data.decode())))[1:]
    evaluated = [row for row in rows if any(row[2:])]

    def column(rows: list[list[str]], index: int, dtype: str) -> np.ndarray:
        # Through float64, as bfloat16 does not parse text; the digits name one number of either.
        return np.array([row[index] for row in rows], np.float64).astype(dtype)

    dtypes = metadata["dtypes"]
    names = [(part, name) for part in _PARTS for name in dtypes[part]]
    arrays = arrays | {
        "history.loss": column(rows, 1, dtypes["loss"]),
        "history.eval_step": np.array([int(row[0]) for row in evaluated], int),
    }
    for index, (part, name) in enumerate(names, 2):
        arrays[f"history.{part}.{name}"] = column(evaluated, index, dtypes[part][name])
    metrics = {part: list(dtypes[part]) for part in _PARTS}
    return arrays, metadata | {"metrics": metrics, "settings": {}}, str(path)
