"""Matrices turned to [out, in], and functions of such: how a CPU computes their products fastest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

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

    def run(jaxpr: Jaxpr, consts: Any, values: Any, matrices: list[Array]) -> list[Array]:
        known = dict(
            zip((*jaxpr.constvars, *jaxpr.invars), (*map(jnp.asarray, consts), *values), strict=True)
        )

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
                out = [as_is(equation.primitive.bind(as_is(w.T), x, **params)).T]
            else:
                inputs = [*dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))]
                alone = Jaxpr((), inputs, equation.outvars, [equation], equation.effects, jaxpr.debug_info)
                out = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, inputs))
            known.update(zip(equation.outvars, out, strict=True))
        return [*map(read, jaxpr.outvars)]

    def turned_f(params: PyTree, x: Array, t: Array) -> Array:
        traced = jax.make_jaxpr(f)(params, x, t)
        matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        (value,) = run(traced.jaxpr, traced.consts, jax.tree.leaves((params, x, t)), matrices)
        return value

    return turned_f
