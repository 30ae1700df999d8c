"""Matrices turned to [out, in], and functions of such: how a CPU computes their products fastest."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.gradcheck.interpret import bind, walk

PyTree = Any


def turned(tree: PyTree) -> PyTree:
    """Return the tree with every matrix transposed."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def turned_products(f: Callable[..., Array]) -> Callable[..., Array]:
    """Return f(params, x, t) with each product `inputs @ w`, w a matrix of params, as `(w.T @ inputs.T).T`.

    On CPU the large ones then go through their operands as they lie in memory. Where params are transposes
    of what is held, so do their gradients. Other devices keep f.
    """
    if jax.default_backend() != "cpu":
        return f
    as_is = jax.lax.optimization_barrier  # or XLA would turn a product back

    def turned_f(params: PyTree, x: Array, t: Array) -> Array:
        matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]

        def rule(equation: Any, operands: list[Any]) -> Sequence[Any]:
            name, settings = equation.primitive.name, equation.params
            if name in ("jit", "pjit"):
                inner = settings["jaxpr"]
                return walk(inner.jaxpr, inner.consts, operands, rule)
            if (
                name == "dot_general"
                and settings["dimension_numbers"] == (((1,), (0,)), ((), ()))
                and operands[0].ndim == 2
                and any(operands[1] is matrix for matrix in matrices)
            ):
                inputs, w = operands
                (product,) = bind(equation, [as_is(w.T), inputs], dimension_numbers=(((1,), (1,)), ((), ())))
                return [as_is(product).T]
            return bind(equation, operands)

        traced = jax.make_jaxpr(f)(params, x, t)
        (value,) = walk(traced.jaxpr, traced.consts, jax.tree.leaves((params, x, t)), rule)
        return jnp.asarray(value)

    return turned_f
