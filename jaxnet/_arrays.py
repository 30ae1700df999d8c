"""The one door from a user's examples to arrays."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

Host = np.ndarray[Any, np.dtype[Any]]


def as_pair(examples: object, name: str) -> tuple[Array | Host, Array | Host]:
    """Return examples `(x, t)` as two arrays of numbers, as many inputs as targets, at least one.

    name: theirs in errors. What is of JAX stays there; anything else becomes NumPy's, so that rows are known
    by their position alone.
    """
    if not isinstance(examples, (tuple, list)) or len(examples) != 2:
        raise ValueError(f"{name} must be a pair (x, t) of arrays, got {type(examples).__name__}")
    try:
        x, t = (array if isinstance(array, Array) else np.asarray(array) for array in examples)
    except ValueError:  # rows of different lengths
        x = t = np.array(None)
    if not all(jnp.issubdtype(array.dtype, np.number) or array.dtype == bool for array in (x, t)):
        raise TypeError(f"{name} must be two arrays of numbers, got {[type(a).__name__ for a in examples]}")
    if not x.ndim or not t.ndim or len(x) != len(t):
        raise ValueError(
            f"{name} must be as many inputs as targets, got shapes {list(x.shape)} and {list(t.shape)}"
        )
    if not x.size:
        raise ValueError(f"{name} must hold at least one example, got inputs of shape {list(x.shape)}")
    return x, t
