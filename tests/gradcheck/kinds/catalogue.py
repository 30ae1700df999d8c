"""What a kind is, and what several of them are made of."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Groups that stand in several files.
ELSEWHERE = "fails elsewhere"
MANY = "many elements"
OWN = "own precision"


class Kind(NamedTuple):
    """One call of the checker and its answer.

    verdict is the report's, or the name of the exception by which the call is refused. says are words that
    the report (or the exception) must have, never those that it must not have. needs is the package without
    which the kind cannot be built. row names the group.
    """

    name: str
    call: Callable
    verdict: str
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    needs: str = ""
    row: str = ""


KINDS: list[Kind] = []


def kind(row: str, verdict: str, *says: str, never: tuple[str, ...] = (), needs: str = ""):
    """Enter a call under the function's own name."""

    def enter(call: Callable) -> Callable:
        KINDS.append(Kind(call.__name__.replace("_", " "), call, verdict, says, never, needs, row))
        return call

    return enter


def check(f: Callable, *args, **options):
    from jaxnet import check_gradients

    return check_gradients(f, *args, **options)


def ruled(f: Callable, slope: Callable) -> Callable:
    """Return a function of one array that works element by element, with this derivative as its rule."""
    rule = jax.custom_vjp(f)
    rule.defvjp(lambda x: (f(x), x), lambda x, g: (g * slope(x),))
    return rule


def scaled(f: Callable, factor: float = 1.02) -> Callable:
    """Return f with a rule that is too large by this factor."""
    rule = jax.custom_vjp(f)
    rule.defvjp(
        lambda *args: jax.vjp(f, *args), lambda pull, g: jax.tree.map(lambda leaf: factor * leaf, pull(g))
    )
    return rule


def off(x, factor: float, *narrow: str):
    """Return the factor where x has one of these types, else 1."""
    return jnp.asarray(factor if x.dtype.name in narrow else 1, x.dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)
