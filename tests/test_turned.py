from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import network
from jaxnet.training.turned import turned, turned_products

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((6, 4)), RNG.integers(3, size=6)


def params(dtype=float):
    return network.init(jax.random.key(0), (4, 5, 3), weight_std=0.5, dtype=dtype)


@jax.custom_vjp
def clipped(z):
    return z


clipped.defvjp(lambda z: (z, None), lambda _, g: (jnp.clip(g, -0.01, 0.01),))


def deep(params, x, t):
    """Takes the same square product again and again, in a loop that is left as it is and outside."""
    w = params[0].weight[:, :4]
    x = jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x @ w)
    return network.loss(params, jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), t)


LOSSES = {
    "the network's": network.loss,
    "its own jit": jax.jit(network.loss),
    "relu, of a custom rule": lambda p, x, t: network.loss(p, x, t, activation="relu"),
    "a gradient of its own": lambda p, x, t: clipped(network.logits(p, x))[jnp.arange(6), t].mean(),
    "checkpointed": jax.checkpoint(network.loss),
    "bfloat16": lambda p, x, t: network.loss(p, x, t, dtype=jnp.bfloat16),
    "example by example": lambda p, x, t: jax.vmap(lambda x, t: network.loss(p, x, t))(x, t).mean(),
    "loops and branches": deep,
    "products of params alone": lambda p, x, t: jnp.sum(p[0].weight @ p[1].weight) ** 2 + x[0, 0] * t[0],
    "three axes": lambda p, x, t: jnp.tanh(jnp.stack([x, jnp.exp(x)]) @ p[0].weight).mean(),
    "constants of NumPy": partial(network.loss, class_weight=np.array([1.0, 2.0, 3.0])),
    "matrix first": lambda p, x, t: jnp.tanh(p[0].weight.T @ x.T).mean() + t.sum(),
    "a constant": lambda p, x, t: jnp.asarray(2.0),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_value_and_gradient_are_those_of_the_loss(loss):
    with jax.enable_x64(True):
        x, t, start = jnp.asarray(X), jnp.asarray(T), params()
        expected = jax.value_and_grad(lambda *args: loss(*args) * 1.0)(start, x, t)
        held = turned(start)
        value, grads = jax.jit(
            jax.value_and_grad(lambda held, x, t: turned_products(loss)(turned(held), x, t) * 1.0)
        )(held, x, t)
        for a, b in zip(jax.tree.leaves((value, turned(grads))), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's products on a CPU")
def test_large_products_go_through_their_operands_as_they_lie():
    """One network of a lane: neither inputs nor matrix nor gradient is transposed on the way."""
    start = jax.tree.map(lambda leaf: jnp.float32(leaf)[None], turned(params()))

    def value(held, x, t):
        return turned_products(network.loss)(turned(held), x, t)

    step = jax.vmap(jax.value_and_grad(value), (0, None, None))
    program = jax.jit(step).lower(start, jnp.float32(X), jnp.asarray(T)).compile().as_text()
    products = [line.split(" = ")[1].split("{")[0] for line in program.splitlines() if " dot(" in line]
    assert {"f32[5,6]", "f32[5,4]"} <= set(products)  # hidden units by examples; the gradient, turned
    assert "f32[4,5]" not in products
