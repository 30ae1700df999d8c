"""Matrices held as [out, in], and losses of such: how a core computes their products fastest."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jaxnet._steps import Loss, PyTree


def turned(tree: PyTree) -> PyTree:
    """Return the tree with every matrix transposed."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def turned_products(loss: Loss) -> Loss:
    """Return the loss with each product `inputs @ w`, w a matrix of params, computed as `(w.T @ inputs.T).T`.

    Where params are the transposes of what is held, w.T and the transpose of its gradient are what is held,
    and the large products go through their operands as they lie in memory.
    """

    def run(jaxpr: Jaxpr, consts: Any, values: Any, matrices: list[Array]) -> list[Array]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

        def read(atom: Any) -> Array:
            if not isinstance(atom, Literal):
                return known[atom]
            aval: Any = atom.aval
            return jnp.asarray(atom.val, aval.dtype)

        for equation in jaxpr.eqns:
            name, params, operands = equation.primitive.name, equation.params, [*map(read, equation.invars)]
            if name in ("jit", "pjit"):
                inner = params["jaxpr"]
                out = run(inner.jaxpr, inner.consts, operands, matrices)
            elif (
                name == "dot_general"
                and params["dimension_numbers"] == (((1,), (0,)), ((), ()))
                and operands[0].ndim == 2
                and any(operands[1] is matrix for matrix in matrices)
            ):
                x, w = operands
                params = params | {"dimension_numbers": (((1,), (1,)), ((), ()))}
                out = [equation.primitive.bind(w.T, x, **params).T]
            else:
                inputs = [*dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))]
                alone = Jaxpr((), inputs, equation.outvars, [equation], equation.effects, jaxpr.debug_info)
                out = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, inputs))
            known.update(zip(equation.outvars, out, strict=True))
        return [*map(read, jaxpr.outvars)]

    def turned_loss(params: PyTree, x: Array, t: Array) -> Array:
        traced = jax.make_jaxpr(loss)(params, x, t)
        matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        (value,) = run(traced.jaxpr, traced.consts, jax.tree.leaves((params, x, t)), matrices)
        return value

    return turned_loss
