"""What a case of the catalogue is, and its right and its wrong gradient."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Dtype = type[np.float32] | type[np.float64]


class Case(NamedTuple):
    """One function and where it is differentiated.

    build(dtype) gives (f, args); what f closes over and the arguments have this type, and f is to be called
    where x64 is on exactly when it is float64. gradient makes the right gradient of f, where that is not
    `jax.grad` or `jax.jacrev`. spoilt is the leaf that the wrong gradient has too large, where it is not the
    middle one. needs is the package without which there is no such function. expect is "inconclusive" where
    a right gradient need not pass nor a wrong one fail, but neither may be taken for the other. notes say
    what is particular: "by type" where f in float32 and under x64 are different functions, not one rounded
    twice.
    """

    name: str
    build: Callable[[Dtype], tuple[Callable, tuple]]
    argnums: int | tuple[int, ...] = 0
    expect: str = "pass"
    notes: str = ""
    needs: str = ""
    gradient: Callable[[Callable], Callable] | None = None
    spoilt: int | None = None


class Draw(NamedTuple):
    """Random arrays of one type: the same numbers in float32 as in float64, but for rounding."""

    rng: np.random.Generator
    dtype: Dtype

    def array(self, values) -> Array:
        return jnp.asarray(values, self.dtype)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return self.array(scale * self.rng.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.array(self.rng.uniform(low, high, shape))

    def module(self, make: Callable):
        """Return what make draws in float32, in this type: left to itself it draws other numbers for each."""
        with jax.enable_x64(False):
            tree = make()
        return jax.tree.map(lambda leaf: self.array(leaf) if _is_float32(leaf) else leaf, tree)

    def layers(self, *widths: int) -> list[tuple[Array, Array]]:
        return [(self.normal(m, n, scale=m**-0.5), self.normal(n, scale=0.1)) for m, n in pairwise(widths)]


def _is_float32(leaf) -> bool:
    return getattr(leaf, "dtype", None) == np.float32


CASES: list[Case] = []


def case(write: Callable[[Draw], tuple[Callable, tuple]] | None = None, **fields):
    """Enter a function of a Draw in the catalogue under its own name."""
    if write is None:
        return partial(case, **fields)

    def build(dtype: Dtype) -> tuple[Callable, tuple]:
        with jax.enable_x64(dtype is np.float64):
            return write(Draw(np.random.default_rng(0), dtype))

    CASES.append(Case(write.__name__.replace("_", " "), build, **fields))
    return write


def right_gradient(case: Case, dtype: Dtype) -> Callable:
    """Return the case's own autodiff gradient, a function of its arguments."""
    f, args = case.build(dtype)
    if case.gradient:
        return case.gradient(f)
    with jax.enable_x64(dtype is np.float64):
        scalar = getattr(f(*args), "ndim", None) == 0
    return (jax.grad if scalar else jax.jacrev)(f, argnums=case.argnums)


def wrong_gradient(case: Case, dtype: Dtype) -> Callable:
    """Return the right gradient with one leaf 2 % too large."""
    gradient = right_gradient(case, dtype)

    def wrong(*args):
        leaves, structure = jax.tree.flatten(gradient(*args))
        spoilt = len(leaves) // 2 if case.spoilt is None else case.spoilt
        leaves[spoilt] = leaves[spoilt] * 1.02
        return jax.tree.unflatten(structure, leaves)

    return wrong


def forward(params, x, activation):
    for w, b in params[:-1]:
        x = activation(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def normed(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5)
