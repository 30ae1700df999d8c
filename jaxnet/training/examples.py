"""The data of a run: checked, and with weights of classes and examples."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxnet._arrays import as_examples
from jaxnet.sharding import Share, layout
from jaxnet.shards import OnDisk
from jaxnet.training import disk
from jaxnet.training.state import Examples, Loss, PyTree, all_finite, num_examples, takes


def check_examples(
    examples: Any, name: str, like: PyTree = None, mesh: Mesh | None = None, many: bool = False
) -> Examples:
    """Return examples on the device, or say what is wrong with them; like: the inputs of others.

    With a mesh they are still on the host, of many networks without a layout: each has them all.
    """
    length = None
    if isinstance(examples, OnDisk):
        if many:
            raise TypeError(f"{name} must be a pair (x, t) of arrays; a dataset on disk is for fit")
        found = disk.like(examples)
        _check_inputs(found.x, name, like)
        return found
    if isinstance(examples, Share):
        if mesh is None or many:
            raise TypeError(f"{name} must be a pair (x, t); a Share is for fit with a mesh")
        *examples, length = examples
    host = Examples(*as_examples(examples, name))
    if mesh is None:
        found = jax.tree.map(jax.device_put, host)  # asarray copies some NumPy arrays twice
    else:
        rows = num_examples(host)
        how = layout(rows if length is None else length, mesh)
        first, last = how.own_rows()
        if length is not None and rows != last - first:
            raise ValueError(
                f"{name} must be a share of {last - first} examples, rows {first}..{last - 1} of {length}, "
                f"got {rows}"
            )
        found = jax.tree.map(_as_on_device, host)._replace(layout=None if many else how)
    for before, after in zip(jax.tree.leaves(host), jax.tree.leaves(found), strict=True):
        if before.size and jnp.issubdtype(after.dtype, jnp.integer):
            low, high = int(before.min()), int(before.max())
            limits = jnp.iinfo(after.dtype)
            if low < limits.min or high > limits.max:
                raise ValueError(f"{name} must fit into {after.dtype}, got {low}..{high}")
    _check_inputs(found.x, name, like)
    for tree, kind in ((found.x, "inputs"), (found.t, "targets")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not all_finite(leaf):
                row = int(np.argwhere(~np.isfinite(np.asarray(leaf)))[0][0])
                where = jax.tree_util.keystr(path)
                raise ValueError(f"{name} {kind}{where} must be finite, got NaN or infinity in example {row}")
    result: Examples = found
    return result


def _check_inputs(x: PyTree, name: str, like: PyTree) -> None:
    """Refuse inputs that are not like those of train."""
    if like is not None:
        wanted_tree, got = (str(jax.tree.structure(tree)) for tree in (like, x))
        if wanted_tree != got:
            raise ValueError(f"{name} inputs must be of the structure of train inputs, got {got}")
        pairs = zip(jax.tree.leaves(like), jax.tree_util.tree_leaves_with_path(x), strict=True)
        for wanted, (path, leaf) in pairs:
            if leaf.shape[1:] != wanted.shape[1:]:
                raise ValueError(
                    f"{name} inputs{jax.tree_util.keystr(path)} must have the shape of train inputs, "
                    f"{list(wanted.shape[1:])} each, got {list(leaf.shape[1:])}"
                )


def _as_on_device(leaf: Any) -> np.ndarray:
    host = np.asarray(leaf)
    return host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)


def balanced_class_weight(labels: ArrayLike, classes: int | None = None) -> np.ndarray:
    """Return a weight for each class with which all classes weigh the same: `n / (classes · n_class)`.

    classes: by default one more than the largest label; one that no example has gets 0. As scikit-learn's
    `compute_class_weight("balanced")` does of classes that all have examples.

    Raises:
        TypeError: labels are not integers.
        ValueError: labels are not of shape [n], or negative.

    >>> balanced_class_weight(np.array([0, 0, 0, 1]))
    array([0.66666667, 2.        ])
    """
    host = np.asarray(labels)
    if host.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers to weigh classes by, got {host.dtype}")
    if host.ndim != 1 or not host.size or host.min() < 0:
        raise ValueError(f"labels must be [n] and not negative to weigh classes by, got {list(host.shape)}")
    counts = np.bincount(host, minlength=classes or 0)
    return np.divide(len(host), len(counts) * counts, out=np.zeros(len(counts)), where=counts > 0)


def with_class_weight(loss: Loss, class_weight: Any, labels: PyTree) -> Loss:
    """Return the loss with a weight for each class, or say what is wrong with it."""
    if class_weight is None:
        return loss
    if not takes(loss, "class_weight"):
        raise TypeError("class_weight must be given to a loss with a parameter of that name, got one without")
    if isinstance(class_weight, str):
        check_choice(class_weight, ["balanced"], "class_weight")
        if not hasattr(labels, "dtype"):
            got = "none" if labels is None else type(labels).__name__
            raise TypeError(f"class_weight 'balanced' needs integer labels [n] for targets, got {got}")
        return partial(loss, class_weight=jnp.asarray(balanced_class_weight(labels)))
    weights = np.asarray(class_weight)
    if weights.dtype.kind not in "iuf" or weights.ndim != 1 or not (weights >= 0).all() or not weights.any():
        raise ValueError(
            f"class_weight must be 'balanced' or a number for each class, none negative, got {class_weight!r}"
        )
    return partial(loss, class_weight=jnp.asarray(weights, float))


def check_sample_weight(weights: ArrayLike | list[Any] | None, length: int, loss: Loss) -> Array | None:
    """Return a weight for each example on the device, or say what is wrong with them."""
    if weights is None:
        return None
    if not takes(loss, "sample_weight"):
        raise TypeError(
            "sample_weight must be given to a loss with a parameter of that name, got one without"
        )
    host = np.asarray(weights)
    if host.dtype.kind not in "iufb":
        raise TypeError(f"sample_weight must be numbers, got {host.dtype}")
    if host.shape != (length,):
        raise ValueError(f"sample_weight must have shape [{length}], got {list(host.shape)}")
    if not np.isfinite(host).all() or host.min() < 0 or not host.any():
        bad = np.flatnonzero(~(np.isfinite(host) & (host >= 0)))
        got = f"{host[bad[0]]} for example {bad[0]}" if bad.size else "zeros"
        raise ValueError(f"sample_weight must be finite, not negative, and not all zero, got {got}")
    return jnp.asarray(host, float)


def check_batches(batches: ArrayLike, length: int, steps: int | None, batch_size: int | None) -> Array:
    """Return explicit batches on the device, or say what is wrong with them."""
    found = check_rows(batches, "batches", "steps, batch", length)
    for name, given, implied in zip(("steps", "batch_size"), (steps, batch_size), found.shape, strict=True):
        if given not in (None, implied):
            raise ValueError(f"{name} must be {implied}, as batches has it, or left out, got {given}")
    return found


def check_rows(rows: ArrayLike, name: str, shape: str, length: int) -> Array:
    """Return a matrix of indices of examples on the device, or say what is wrong with it."""
    host = np.asarray(rows)
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"{name} must be integer indices, got {host.dtype}")
    if host.ndim != 2 or not host.size:
        raise ValueError(f"{name} must have shape [{shape}] and not be empty, got {list(host.shape)}")
    if host.min() < 0 or host.max() >= length:
        raise ValueError(f"{name} must index 0..{length - 1}, got {host.min()}..{host.max()}")
    return jnp.asarray(host, jnp.int32)


def check_choice(value: Any, allowed: Sequence[str], name: str) -> None:
    """Refuse a value that is none of those."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed[:-1]))
        raise ValueError(f"{name} must be {f'{known} or ' if known else ''}{allowed[-1]!r}, got {value!r}")


def check_callable(value: Any, name: str) -> None:
    """Refuse what is no function."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")


def check_positive_int(value: int, name: str) -> int:
    """Return a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)
