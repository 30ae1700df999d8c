"""What a call computes, as one number, and what is tried on a function without a rule."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy
import jax.scipy.spatial.transform
import numpy as np

from benchmarks.audit.points import (
    LINE,
    MATRICES,
    MATRIX_PAIRS,
    MATRIX_TRIPLES,
    PAIRS,
    PARAMETERS,
    SUPPORT,
    TRIPLES,
    VECTOR_PAIRS,
    VECTOR_TRIPLES,
    VECTORS,
    at,
)
from benchmarks.audit.rules import Rule

# What a call computes, as one number.


def floating(value: Any) -> bool:
    return isinstance(value, float | np.ndarray) and np.issubdtype(np.asarray(value).dtype, np.floating)


def outputs(tree: Any) -> list[Any]:
    """The floating-point arrays of a result; of complex ones both parts."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    parts = [[leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf] for leaf in leaves]
    return [part for part in itertools.chain(*parts) if jnp.issubdtype(part.dtype, jnp.floating)]


def weights(number: int, size: int) -> np.ndarray:
    """The weights of an output's elements in the sum that is differentiated; 1 is the first."""
    return np.cos(number + np.arange(size)).astype(np.float32).astype(np.float64)


class Case(NamedTuple):
    """One function at one point."""

    function: str
    note: str
    point: str
    f: Callable[..., Any]
    """Returns one number: the sum of the outputs, weighted."""
    args: tuple[Any, ...]
    argnums: tuple[int, ...]


def summed(rule: Rule, fn: Callable[..., Any]) -> Callable[..., Any]:
    def f(*args: Any) -> Any:
        parts = outputs(rule.call(fn, *args))
        return sum(
            jnp.sum(part.ravel() * jnp.asarray(weights(k, part.size), part.dtype))
            for k, part in enumerate(parts)
        )

    f.__name__ = getattr(fn, "__name__", "f")
    return f


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function under jit, or as it is where it looks at values."""
    fast = jax.jit(f)

    def call(*args: Any) -> Any:
        try:
            return fast(*args)
        except (TypeError, ValueError, IndexError):  # jax's, of what must be known before; others come again
            return f(*args)

    return call


# What is tried on a function without a rule.

# What jax's own functions raise of arrays that they are not for; the last is listed. Of axes, a NameError.
WRONG_ARGUMENTS = (TypeError, ValueError, AttributeError, LookupError, NameError, NotImplementedError)


def automatic(name: str, fn: Callable[..., Any]) -> list[Rule] | str:
    """Rules for a function that takes arrays only, or why there are none."""
    if ".stats." in name and name.split(".")[-2] != "stats":
        return [distribution(name, fn)]
    required = []
    with contextlib.suppress(TypeError, ValueError):
        required = [
            p
            for p in inspect.signature(fn).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    counts = [len(required)] if required else [2, 1]
    why = "takes no arrays"
    for count, kind in itertools.product(counts, ("scalars", "vectors", "matrices")):
        points = (
            {"scalars": LINE, "vectors": VECTORS, "matrices": MATRICES},
            {"scalars": PAIRS, "vectors": VECTOR_PAIRS, "matrices": MATRIX_PAIRS},
            {"scalars": TRIPLES, "vectors": VECTOR_TRIPLES, "matrices": MATRIX_TRIPLES},
        )[min(count, 3) - 1][kind]
        try:
            if not outputs(fn(*next(iter(points.values())))):
                return "returns no floating-point numbers"
            if kind == "scalars" and not elementwise(fn, count):
                continue
        except WRONG_ARGUMENTS as error:
            why = str(error).split("\n")[0]
            continue
        return [Rule(name, points)]
    return why


def elementwise(fn: Callable[..., Any], count: int) -> bool:
    columns = [np.array([0.4, 0.3, 0.5]) + 0.01 * number for number in range(count)]
    together, apart = fn(*columns), [fn(*row) for row in np.transpose(columns)]
    return np.shape(together) == (3,) and np.array_equal(np.ravel(together), np.ravel(apart), equal_nan=True)


def distribution(name: str, fn: Callable[..., Any]) -> Rule:
    """A distribution's function at points of its support, for two sets of its parameters."""
    names = list(inspect.signature(fn).parameters)
    discrete = "k" in names
    choices = [[PARAMETERS[p][i] for p in names[1:] if not (discrete and p == "loc")] for i in (0, 1)]
    first: Sequence[Any] = {"q": (0.3, 0.5, 0.8, 0.0, 1.0, 1e-30), "k": (2, 0, 1), "mu": ()}.get(
        names[0], SUPPORT
    )
    if names[0] == "mu":
        return Rule(name, at(2.4, 0.3, 1.0, 1e-30, 30.0, 700.0, 0.0), lambda f, mu: f(mu))
    if "truncnorm" in name:
        choices = [[-1.5, 2.5, *choices[0][2:]], [-1.0, 1.0, *choices[1][2:]]]
    points = at(*((x, *choices[0]) for x in first), *((x, *choices[1]) for x in first[:-2]))
    return Rule(name, points)
