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
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import _extras
from jaxnet._names import Task
from jaxnet.datasets.arrays import Split, StrPath, class_targets, scaled
from jaxnet.datasets.arrays import aligned as aligned
from jaxnet.datasets.arrays import features as features
from jaxnet.datasets.folders import image_folders, load_images
from jaxnet.datasets.folders import images_of as images_of
from jaxnet.datasets.images import centred, read_image
from jaxnet.datasets.published import SOURCES, load_fashion_mnist, load_mnist, load_published, read_idx
from jaxnet.datasets.published import published_files as published_files
from jaxnet.datasets.splits import folds, four_to_one, split
from jaxnet.datasets.tables import load_csv, load_npz, named_labels, read_csv_file, read_npz

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

_DIGITS = tuple("0123456789")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def load(
    name_or_path: StrPath,
    directory: StrPath | None = None,
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
        raise ValueError(f"directory is for {' and '.join(map(repr, SOURCES))} only, got it with {name!r}")
    if target is not None and kind != "csv":
        raise ValueError(f"target is of .csv files, got it with {name!r}")
    if task != "classification" and kind not in ("npz", "csv"):
        raise ValueError(f"task {task!r} is of .npz and .csv files, got it with {name!r}")
    if kind == "shards":
        return _load_shards(name, normalize, one_hot_label)
    if kind == "published":
        return load_published(name, directory, normalize, one_hot_label)
    if kind == "npz":
        return load_npz(name, normalize=normalize, one_hot_label=one_hot_label, task=task)
    if kind == "csv":
        return load_csv(name, target=target, one_hot_label=one_hot_label, task=task)
    if kind == "images":
        return load_images(name, normalize=normalize, one_hot_label=one_hot_label)
    return load_digits(normalize=normalize, one_hot_label=one_hot_label)


def _kind(name: str) -> str:
    """Return what `load` takes a name for."""
    if name in SOURCES:
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


def input_scale(name_or_path: StrPath) -> float:
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
    is_bytes = kind == "npz" and read_npz(Path(name).expanduser())[0]["x_train"].dtype == np.uint8
    return 1 / 255 if is_bytes else 1.0


def class_names(name_or_path: StrPath, *, target: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the labels 0, 1 ... that `load` gives, None where they have none.

    Raises what `load` raises.

    >>> class_names("digits")[:3]
    ('0', '1', '2')
    """
    name = os.fspath(name_or_path)
    kind = _kind(name)
    if kind == "csv":
        return named_labels(read_csv_file(Path(name).expanduser(), target)[1], name)[1]
    if kind == "shards":
        names: tuple[str, ...] | None = _shards(name)[0].class_names
        return names
    if kind == "images":
        return tuple(image_folders(Path(name).expanduser())[1])
    return CLASS_NAMES.get(name)


def load_digits(*, normalize: bool = True, one_hot_label: bool = False) -> Split:
    """Load the handwritten digits that scikit-learn carries, 8 x 8 pixels, 1,437 to train and 360 to test.

    x is [n, 64]: float32 in 0..1, or uint8 in 0..16 without `normalize`; t int32 [n], or float32 [n, 10].
    Needs no network; the split is shuffled and always the same. Raises ImportError without scikit-learn.

    >>> (x_train, t_train), _ = load_digits(one_hot_label=True)
    >>> x_train.shape, t_train.shape, float(x_train.max())
    ((1437, 64), (1437, 10), 1.0)
    """
    spec = importlib.util.find_spec("sklearn")
    file = Path((spec and spec.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # importing scikit-learn, for this one file, takes over a second
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        pixels, labels = table[:, :-1], table[:, -1].astype(int)
    else:
        bunches = _extras.require("sklearn.datasets", "digits needs", "data")
        pixels, labels = bunches.load_digits(return_X_y=True)
    x, t = scaled(pixels.astype(np.uint8), 16, normalize), class_targets(labels, 10, one_hot_label)
    return four_to_one(x, t)


def _shards(name: str) -> Any:
    from jaxnet import shards  # which needs this file

    return shards.load(name)


def _load_shards(name: str, normalize: bool, one_hot_label: bool) -> Split:
    parts = _shards(name)
    found = [(part if normalize else replace(part, top=None)).rows(np.arange(len(part))) for part in parts]
    classes = max(int(t.max()) for _, t in found) + 1 if found[0][1].dtype.kind in "iu" else 0
    train, test = ((x, class_targets(t, classes, one_hot_label) if classes else t) for x, t in found)
    return train, test
