"""The command `jaxnet predict`."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import datasets
from jaxnet.cli import run_folder
from jaxnet.cli.settings import Predict
from jaxnet.cli.table import aligned
from jaxnet.datasets import images, tables

# Pixels of the longer side of what is drawn, in the square of each dataset.
_BOXES = {"mnist": 20, "fashion-mnist": 28, "digits": 8}


class Given(NamedTuple):
    """A picture, or a row of inputs, and where it is from."""

    name: str
    values: np.ndarray
    """[rows, columns], [rows, columns, 3] or [inputs]."""


def run(options: Predict) -> int:
    """Print what the network sees, or JSON; return 0."""
    found = predict(options.folder, options.images, options.prepare)
    print(json.dumps(found, indent=2) if options.json else _text(found))
    return 0


def predict(folder: Path, sources: Sequence[str], prepare: str | None) -> list[dict[str, Any]]:
    """Return the class and the probabilities of each picture, or the number of a regression."""
    trained = run_folder.trained(folder)
    inputs, target = (trained.saved.sizes or (0,))[0], trained.config.get("target")
    given = [one for source in sources for one in read(source, inputs, target)]
    outputs = np.asarray(trained.model(np.stack([as_inputs(one, trained, prepare) for one in given])))
    if trained.is_regression:
        pairs = zip(given, outputs, strict=True)
        return [{"input": one.name, "prediction": float(value)} for one, value in pairs]
    return [
        {
            "input": one.name,
            "class": trained.class_names[int(row.argmax())],
            "probability": float(row.max()),
            "probabilities": dict(zip(trained.class_names, map(float, row), strict=True)),
        }
        for one, row in zip(given, outputs, strict=True)
    ]


def read(source: str, inputs: int, target: str | None = None) -> Iterator[Given]:
    """Yield what a file, a folder or stdin (-) holds, rows of so many inputs; ValueError where nothing.

    target: the column that a table may have beside them, by default its last.
    """
    path = Path(source).expanduser()
    if source == "-":
        data = sys.stdin.buffer.read()
        is_array = data.startswith((b"\x93NUMPY", b"PK"))
        stream = io.BytesIO(data)
        yield from _arrays(source, stream, inputs) if is_array else _picture(source, stream)
    elif path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise ValueError(f"{path}: expected pictures, got an empty folder")
        for file in files:
            yield from read(str(file), inputs, target)
    elif not path.exists():
        raise ValueError(
            f"expected a picture, an .npy, .npz or .csv file, a folder or -, got {source}: not there"
        )
    elif path.suffix in (".npy", ".npz"):
        yield from _arrays(source, path, inputs)
    elif path.suffix == ".csv":
        for index, row in enumerate(tables.rows_of_inputs(path, inputs, target)):
            yield Given(f"{source}[{index}]", row)
    else:
        yield from _picture(source, path)


def _picture(name: str, source: Any) -> Iterator[Given]:
    yield Given(name, datasets.read_image(source))


def _arrays(name: str, source: Any, inputs: int) -> Iterator[Given]:
    try:
        values = np.load(source, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            names = values.files
            if "x_test" not in names and len(names) != 1:
                raise ValueError(f"expected one array, or x_test, got {', '.join(names) or 'none'}")
            values = values["x_test" if "x_test" in names else names[0]]
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name}: expected an array of NumPy, got {' '.join(str(error).split())}") from None
    if values.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected real numbers, got {values.dtype}")
    if not 1 <= values.ndim <= 4 or not values.size:
        raise ValueError(f"{name}: expected pictures or rows of {inputs} inputs, got {list(values.shape)}")
    is_picture = values.shape[-1] != inputs if values.ndim == 2 else values.shape[2:] == (3,)
    if values.ndim == 1 or is_picture:
        yield Given(name, values)
        return
    for index, one in enumerate(values):
        yield Given(f"{name}[{index}]", one)


def as_inputs(given: Given, trained: run_folder.Trained, prepare: str | None) -> np.ndarray:
    """Return the inputs [d] of the network: rows of them as they are, of integers scaled as the data were."""
    inputs = trained.saved.sizes[0] if trained.saved.sizes else 0
    values, scale = given.values, trained.saved.input_scale or 1.0
    if not np.isfinite(values).all():
        raise ValueError(f"{given.name}: expected finite numbers, got NaN or infinity")
    if values.ndim == 1:
        if len(values) != inputs:
            raise ValueError(f"{given.name}: expected {inputs} inputs, got {len(values)}")
        return (values * (scale if values.dtype.kind in "iu" else 1.0)).astype(np.float32)
    colour = round((inputs / 3) ** 0.5) ** 2 * 3 == inputs
    side = round((inputs / (3 if colour else 1)) ** 0.5)
    if side * side * (3 if colour else 1) != inputs:
        raise ValueError(
            f"{given.name}: expected rows of {inputs} inputs, which are no square picture, got "
            f"{list(values.shape)}"
        )
    data = trained.config["data"]
    try:
        if (prepare or ("digit" if data in _BOXES else "resize")) == "resize" or colour:
            return images.resized(values, side, colour=colour)
        return datasets.centred(values, side, _BOXES.get(data, round(side * 20 / 28)))
    except ValueError as error:
        raise ValueError(f"{given.name}: {error}") from None


def _text(found: list[dict[str, Any]]) -> str:
    if "prediction" in found[0]:
        return aligned([["input", "prediction"], *([f["input"], f"{f['prediction']:.6g}"] for f in found)], 1)
    rows = [["input", "class", "probability", "then"]]
    for one in found:
        ranked = sorted(one["probabilities"].items(), key=lambda pair: -pair[1])[1:3]
        then = ", ".join(f"{name} {share:.4f}" for name, share in ranked)
        rows.append([one["input"], one["class"], f"{one['probability']:.4f}", then])
    return aligned(rows, 2)
