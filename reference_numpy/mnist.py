"""MNIST from its IDX files (section 4.1); nothing is downloaded."""

import gzip
import os
from pathlib import Path

import numpy as np

Split = tuple[np.ndarray, np.ndarray]


def one_hot(labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """Integer labels [n] are returned as one-hot rows [n, classes], float64.

    >>> one_hot(np.array([2, 0]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    result: np.ndarray = np.eye(classes)[labels]
    return result


def load_mnist(
    normalize: bool = True, one_hot_label: bool = False, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Split, Split]:
    """MNIST is returned as ((x_train, t_train), (x_test, t_test)) (4.1).

    Images are flattened: [60000, 784] and [10000, 784], float32 in 0..1, or uint8 in 0..255 without
    `normalize`. Labels are int64 [n], or float64 [n, 10] with `one_hot_label`. The four IDX files, gzipped or
    not, lie in `data_dir`, by default in `mnist/` under the folder that the environment variable
    JAXNET_DATA_DIR names.

    Raises:
        FileNotFoundError: no folder is named, or a file is not in it.
    """
    if data_dir is None:
        if "JAXNET_DATA_DIR" not in os.environ:
            raise FileNotFoundError(
                "MNIST: pass data_dir, or set JAXNET_DATA_DIR to the folder that holds mnist/"
            )
        data_dir = Path(os.environ["JAXNET_DATA_DIR"]) / "mnist"
    train, test = (
        _load_split(Path(data_dir), prefix, normalize, one_hot_label) for prefix in ("train", "t10k")
    )
    return train, test


def _load_split(folder: Path, prefix: str, normalize: bool, one_hot_label: bool) -> Split:
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64)
    x = images.reshape(len(images), -1)
    if normalize:
        x = x.astype(np.float32) / np.float32(255)
    return x, one_hot(labels) if one_hot_label else labels


def _read_idx(folder: Path, name: str) -> np.ndarray:
    zipped, plain = folder / f"{name}.gz", folder / name
    if zipped.exists():
        data = gzip.decompress(zipped.read_bytes())
    elif plain.exists():
        data = plain.read_bytes()
    else:
        raise FileNotFoundError(f"MNIST: neither {name}.gz nor {name} is in {folder}")
    # An IDX header is two zero bytes, the element type, the rank, then each dimension as a big-endian int32.
    rank = data[3]
    shape = np.frombuffer(data, ">i4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
