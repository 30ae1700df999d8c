"""Matrices turned to [out, in], and functions of such: how a CPU computes their products fastest."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.gradcheck.interpret import bind, walk

PyTree = Any


def turned(tree: PyTree) -> PyTree:
    """Return the tree with every matrix transposed."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def turned_products(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return f(params, ...) with each product `inputs @ w`, w a matrix of params, as `(w.T @ inputs.T).T`.

    On CPU the large ones then go through their operands as they lie in memory. Where params are transposes
    of what is held, so do their gradients. Other devices keep f.
    """
    if jax.default_backend() != "cpu":
        return f
    as_is: Callable[[Any], Any] = jax.lax.optimization_barrier  # or XLA would turn a product back

    def turned_f(params: PyTree, *args: Any) -> Any:
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

        traced, shapes = jax.make_jaxpr(f, return_shape=True)(params, *args)
        values = walk(traced.jaxpr, traced.consts, jax.tree.leaves((params, *args)), rule)
        return jax.tree.unflatten(jax.tree.structure(shapes), map(jnp.asarray, values))

    return turned_f
