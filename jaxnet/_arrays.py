"""The one door from a user's examples and keys to arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key, Shaped

Host = np.ndarray[Any, np.dtype[Any]]
AnyKey = Shaped[ArrayLike, "..."] | None  # of jax.random.key or PRNGKey, or a seed


def as_pair(examples: object, name: str) -> tuple[Array | Host, Array | Host]:
    """Return examples `(x, t)` as two arrays of numbers, as many inputs as targets, at least one.

    name: theirs in errors. What is of JAX stays there; anything else becomes NumPy's, so that rows are known
    by their position alone.
    """
    x, t = as_examples(examples, name)
    if not all(hasattr(array, "dtype") for array in (x, t)):
        raise TypeError(f"{name} must be two arrays of numbers, got {_kinds(examples)}")
    return x, t


def as_examples(examples: object, name: str) -> tuple[Any, Any]:
    """Return examples `(x, t)` as `as_pair` does, each an array or a pytree of arrays; t may be None."""
    if not isinstance(examples, (tuple, list)) or len(examples) != 2:
        several = f" of {len(examples)}" if isinstance(examples, (tuple, list)) else ""
        raise ValueError(f"{name} must be a pair (x, t) of arrays, got {type(examples).__name__}{several}")
    try:
        x, t = (jax.tree.map(_as_array, tree) if _is_tree(tree) else np.asarray(tree) for tree in examples)
    except ValueError:  # rows of different lengths
        x = t = np.array(None)
    inputs, leaves = jax.tree.leaves(x), jax.tree.leaves((x, t))
    if not all(jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool for leaf in leaves):
        raise TypeError(f"{name} must be two arrays of numbers, got {_kinds(examples)}")
    lengths = {leaf.shape[:1] for leaf in leaves}
    if len(lengths) > 1 or () in lengths:
        shapes = " and ".join(str(list(leaf.shape)) for leaf in leaves)
        raise ValueError(f"{name} must be as many inputs as targets, got shapes {shapes}")
    if not inputs or not all(leaf.size for leaf in inputs):
        got = f"inputs of shape {list(inputs[0].shape)}" if inputs else "no inputs"
        raise ValueError(f"{name} must hold at least one example, got {got}")
    return x, t


def _is_tree(value: Any) -> bool:
    """Return whether a value is an array, or a pytree of arrays; lists are rows, as NumPy takes them."""
    leaves = jax.tree.leaves(value)
    return not isinstance(value, list) and all(getattr(leaf, "ndim", 0) > 0 for leaf in leaves)


def _as_array(leaf: Any) -> Array | Host:
    if isinstance(leaf, np.ma.MaskedArray) and leaf.mask.any():
        raise TypeError("expected arrays without masked values, got one with: fill them in or leave them out")
    return leaf if isinstance(leaf, Array) else np.asarray(leaf)


def _kinds(examples: Any) -> list[str]:
    kinds = [(type(part).__name__, getattr(part, "dtype", None)) for part in examples]
    return [name if dtype is None else f"{name} of {dtype}" for name, dtype in kinds]


def as_key(key: AnyKey) -> Key[Array, "..."]:
    """Return the key that is meant: a key as it is, one of `jax.random.PRNGKey`, a seed, or of seed 0."""
    if key is None or (isinstance(key, (int, np.integer)) and not isinstance(key, bool)):
        return jax.random.key(0 if key is None else key)
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, (Array, np.ndarray)) and key.dtype == jnp.uint32:
        result: Array = jax.random.wrap_key_data(jnp.asarray(key))
        return result
    raise TypeError(f"key must be of jax.random.key or PRNGKey, or a seed, got {key!r}")
