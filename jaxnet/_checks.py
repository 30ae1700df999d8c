"""What `fit` and `fit_many` check of their arguments before anything is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from jaxnet._steps import TrainState, all_finite, default_optimizer

PyTree = Any


def check_examples(
    examples: tuple[ArrayLike, ArrayLike], name: str, shape: tuple[int, ...] | None = None
) -> tuple[Array, Array]:
    if not isinstance(examples, (tuple, list)) or len(examples) != 2:
        raise ValueError(f"{name} must be a pair (x, t) of arrays, got {type(examples).__name__}")
    try:
        host = [array if isinstance(array, Array) else np.asarray(array) for array in examples]
        x, t = (jnp.asarray(array) for array in host)
    except (TypeError, ValueError):  # text, None, rows of different lengths
        raise TypeError(
            f"{name} must be two arrays of numbers, got {[type(a).__name__ for a in examples]}"
        ) from None
    for before, after in zip(host, (x, t), strict=True):
        if before.size and jnp.issubdtype(after.dtype, jnp.integer):
            low, high = int(before.min()), int(before.max())
            limits = jnp.iinfo(after.dtype)
            if low < limits.min or high > limits.max:
                raise ValueError(f"{name} must fit into {after.dtype}, got {low}..{high}")
    if not x.ndim or not t.ndim or len(x) != len(t):
        raise ValueError(
            f"{name} must be as many inputs as targets, got shapes {list(x.shape)} and {list(t.shape)}"
        )
    if not x.size:
        raise ValueError(f"{name} must hold at least one example, got inputs of shape {list(x.shape)}")
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"{name} inputs must have the shape of train inputs, {list(shape)} each, got {list(x.shape[1:])}"
        )
    for array, kind in ((x, "inputs"), (t, "targets")):
        if not all_finite(array):
            row = int(np.argwhere(~np.isfinite(np.asarray(array)))[0][0])
            raise ValueError(f"{name} {kind} must be finite, got NaN or infinity in example {row}")
    return x, t


def check_optimizer(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    if optimizer is None:
        return default_optimizer()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}")
    return optimizer


def check_batches(batches: ArrayLike, num_examples: int, steps: int | None, batch_size: int | None) -> Array:
    host = np.asarray(batches)
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"batches must be integer indices, got {host.dtype}")
    if host.ndim != 2 or not host.size:
        raise ValueError(f"batches must have shape [steps, batch] and not be empty, got {list(host.shape)}")
    if host.min() < 0 or host.max() >= num_examples:
        raise ValueError(f"batches must index 0..{num_examples - 1}, got {host.min()}..{host.max()}")
    for name, given, implied in (("steps", steps, host.shape[0]), ("batch_size", batch_size, host.shape[1])):
        if given not in (None, implied):
            raise ValueError(f"{name} must be {implied}, as batches has it, or left out, got {given}")
    return jnp.asarray(host, jnp.int32)


def check_positive_int(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)


def check_resumable(found: TrainState, fresh: TrainState, steps: int, key: PRNGKeyArray | None) -> TrainState:
    """Return the state to resume, on the device, or say in what it differs from this run's fresh one."""
    found = jax.tree.map(jnp.asarray, found)
    expected, got = (jax.tree_util.tree_leaves_with_path(state) for state in (fresh, found))
    if str(jax.tree.structure(fresh)) != str(jax.tree.structure(found)):
        raise ValueError("resume must have this run's params and optimizer, got another structure")
    for (path, leaf), (_, other) in zip(expected, got, strict=True):
        if (leaf.shape, leaf.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"resume.state{jax.tree_util.keystr(path)} must be {leaf.dtype}{list(leaf.shape)}, "
                f"got {other.dtype}{list(other.shape)}"
            )
    if found.step > steps:
        raise ValueError(
            f"steps must be at least the {found.step} that the run to resume has done, got {steps}"
        )
    if key is not None and (jax.random.key_data(key) != jax.random.key_data(found.key)).any():
        raise ValueError("key must be that of the run to resume, or left out, got another")
    return found
