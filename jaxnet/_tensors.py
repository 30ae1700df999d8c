"""A pytree of arrays, with metadata, as one safetensors file; above all exported parameters."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxnet import _extras, network

PyTree = Any
Arrays = dict[str, np.ndarray]
_KEY = "jaxnet"
_FORMAT = 2
_BLANK = b"0" * 64  # in place of the checksum, while it is computed

# What safetensors.numpy writes but, without bfloat16 and float8, does not read.
_DTYPES = {
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


def require() -> None:
    """Raise ImportError where safetensors is not installed or fails."""
    _extras.require("safetensors.numpy", "saved parameters need", "checkpoints")


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_static(leaf: Any) -> bool:
    """Return whether a leaf is such as an Equinox module has for its activation."""
    return callable(leaf) and not hasattr(leaf, "dtype")


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or "value"


def flatten(tree: PyTree) -> Arrays:
    """Return arrays and numbers as NumPy arrays, by their paths such as `0.weight`; keys as their data."""
    leaves = [pair for pair in jax.tree_util.tree_leaves_with_path(tree) if not _is_static(pair[1])]
    arrays = {
        _name(path): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for path, leaf in leaves
    }
    if len(arrays) != len(leaves):
        raise ValueError(f"expected leaves of different names, got {[_name(path) for path, _ in leaves]}")
    return arrays


def unflatten(arrays: Arrays, like: PyTree, source: str) -> PyTree:
    """Return arrays in the structure of `like`, whose leaves they must match in name, shape and dtype."""
    expected = flatten(like)
    if missing := [name for name in expected if name not in arrays]:
        raise ValueError(f"{source}: expected a leaf {missing[0]}, got {', '.join(arrays) or 'none'}")
    if unknown := [name for name in arrays if name not in expected]:
        raise ValueError(f"{source}: expected no leaf {unknown[0]}, only {', '.join(expected) or 'none'}")
    for name, leaf in expected.items():
        if (leaf.shape, leaf.dtype) != (arrays[name].shape, arrays[name].dtype):
            wanted, got = (f"{array.dtype}{list(array.shape)}" for array in (leaf, arrays[name]))
            raise ValueError(f"{source}: expected {name} to be {wanted}, got {got}")

    def fill(path: tuple[Any, ...], leaf: Any) -> Any:
        if _is_static(leaf):
            return leaf
        array = arrays[_name(path)]
        if _is_key(leaf):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
        return jnp.asarray(array) if isinstance(leaf, jax.Array) else array

    return jax.tree_util.tree_map_with_path(fill, like)


class DamagedError(ValueError):
    """A file is not what was written."""


def pack(arrays: Arrays, metadata: dict[str, Any]) -> bytes:
    """Return the bytes of a safetensors file, with metadata as JSON and a checksum over all of it."""
    import safetensors
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = {"checksum": _BLANK.decode(), "format": _FORMAT} | metadata
    try:
        data = save(arrays, {_KEY: json.dumps(content)})  # under one key: several would come in any order
    except (safetensors.SafetensorError, KeyError):
        others = {name: array.dtype for name, array in arrays.items() if array.dtype not in _DTYPES.values()}
        kinds = ", ".join(f"{name} {dtype}" for name, dtype in others.items())
        raise TypeError(f"expected dtypes that safetensors has, got {kinds}") from None
    return data.replace(_BLANK, hashlib.sha256(data).hexdigest().encode(), 1)  # the checksum comes first


def unpack(data: bytes, source: str) -> tuple[Arrays, dict[str, Any]]:
    """Return what was packed; DamagedError, with the name of the source, if that is not what it was."""
    import safetensors

    try:
        found = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = json.loads(header.get("__metadata__", {}).get(_KEY, "{}"))
        arrays = {
            name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in sorted(found)
        }
    except (safetensors.SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise DamagedError(
            f"{source}: expected a safetensors file, got a damaged one or another ({error})"
        ) from None
    if not isinstance(metadata, dict) or "checksum" not in metadata:
        raise DamagedError(f"{source}: expected a file that jaxnet saved, got one without its checksum")
    checksum, written = str(metadata.pop("checksum")), metadata.pop("format", None)
    if written is None:
        got = _old_digest(arrays, metadata)
    else:
        got = hashlib.sha256(data.replace(checksum.encode(), _BLANK, 1)).hexdigest()
    if checksum != got:
        raise DamagedError(f"{source}: expected checksum {checksum}, got another: the file is damaged")
    if written is not None and written > _FORMAT:
        raise ValueError(f"{source}: expected format {_FORMAT} or older, got {written}: of a later jaxnet")
    return arrays, metadata


def _old_digest(arrays: Arrays, metadata: dict[str, Any]) -> str:
    """Return the checksum of files without a format, as release 0.1 wrote them."""
    names = sorted(arrays)
    described = [[name, str(arrays[name].dtype), arrays[name].shape] for name in names]
    digest = hashlib.sha256(json.dumps([metadata, described], sort_keys=True).encode())
    for name in names:
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file that, whatever happens, is there whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file or the entries of a folder onto the disk, where the system lets folders be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Exported(NamedTuple):
    """Parameters and what is needed to use them."""

    params: PyTree
    sizes: tuple[int, ...] | None
    """Of the layers, inputs first, where params are a network's."""
    activation: str | None
    input_scale: float | None
    class_names: tuple[str, ...] | None


def save_params(
    path: str | os.PathLike[str],
    params: PyTree,
    *,
    activation: str | None = None,
    input_scale: float | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write parameters, any pytree of arrays, and what is needed to use them into one safetensors file.

    Functions in it, such as an Equinox module has, are left out: `load_params` takes them from `like`.

    activation: of the hidden layers. input_scale: what raw inputs were multiplied by, such as 1/255 for
    bytes. class_names: of the labels 0, 1 ... Arrays are named by their paths (`0.weight`), weights being
    [in, out], the transpose of PyTorch's; the rest is JSON under `jaxnet` in the file's metadata, `sizes` too
    where params are a tuple of `network.Dense`. The file is there whole or not at all. No pickle: any
    safetensors library reads it.

    Raises:
        TypeError: a leaf of a dtype that safetensors does not have.
        ValueError: two leaves of the same name.
        ImportError: safetensors is not installed.
    """
    require()
    metadata = {
        "sizes": _sizes(params),
        "activation": activation,
        "input_scale": input_scale,
        "class_names": None if class_names is None else list(class_names),
    }
    write(Path(path), pack(flatten(params), metadata))


def load_params(path: str | os.PathLike[str], like: PyTree = None) -> Exported:
    """Read what `save_params` wrote, with params in the structure of `like`.

    Without `like`, those of a network come back as a tuple of `network.Dense`, any others as a dict by
    name, both of NumPy arrays.

    Raises:
        ValueError: a damaged file, or a leaf that differs from that of `like` in name, shape or dtype, which
            the message names.
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.

    >>> import tempfile
    >>> params = network.init(jax.random.key(0), (4, 3, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_params(f"{folder}/net.safetensors", params, activation="sigmoid", class_names=["no", "yes"])
    ...     exported = load_params(f"{folder}/net.safetensors")
    >>> exported.params[0].weight.shape, exported.sizes, exported.class_names
    ((4, 3), (4, 3, 2), ('no', 'yes'))
    """
    require()
    arrays, metadata = unpack(Path(path).read_bytes(), str(path))
    sizes, names = metadata.get("sizes"), metadata.get("class_names")
    if like is not None:
        params = unflatten(arrays, like, str(path))
    elif sizes is not None:
        saved: dict[str, Any] = arrays  # NumPy's, which serve as jax's do
        pairs = [(saved[f"{i}.weight"], saved.get(f"{i}.bias")) for i in range(len(sizes) - 1)]
        params = tuple(network.Dense(weight, bias) for weight, bias in pairs)
    else:
        params = arrays
    return Exported(
        params,
        None if sizes is None else tuple(sizes),
        metadata.get("activation"),
        metadata.get("input_scale"),
        None if names is None else tuple(names),
    )


def _sizes(params: PyTree) -> list[int] | None:
    if not (
        isinstance(params, tuple) and params and all(isinstance(layer, network.Dense) for layer in params)
    ):
        return None
    return [params[0].weight.shape[0], *(layer.weight.shape[1] for layer in params)]
