"""Scales far apart, and kinks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case, forward

# Scales


@case
def small_sum_on_a_large_offset(draw):
    return lambda x: 1e6 + jnp.sum(jnp.sin(x)) + 1e3 * jnp.prod(x), (draw.normal(5),)


@case
def differences_of_large_parameters(draw):
    def f(x):
        return jnp.sum(jnp.log1p((x / 1e8) ** 2)) + jnp.sum(jnp.diff(x)) * 1e-9

    return f, (draw.uniform(0.5e8, 2e8, 6),)


@case
def tiny_parameters_and_values(draw):
    return lambda x: jnp.sum(x**2 * jnp.cosh(1e8 * x)), (draw.uniform(-1e-8, 1e-8, 5),)


@case
def one_pytree_of_many_scales(draw):
    def f(p):
        current = p["saturation"] * jnp.expm1(p["voltage"] / p["thermal"])
        return jnp.log(current + 1e-9) + p["capacity"] * p["frequency"] * 3 + jnp.sqrt(p["resistance"]) * 1e-4

    values = {"saturation": 1e-12, "voltage": 0.55, "thermal": 0.0259, "capacity": 1e-9, "frequency": 2e8}
    return f, ({name: draw.array(value) for name, value in {**values, "resistance": 4.7e6}.items()},)


@case
def rosenbrock_and_himmelblau(draw):
    def f(x):
        rosen = jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        return rosen + (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2

    return f, (draw.normal(6),)


@case
def ackley_and_rastrigin(draw):
    def f(x):
        ackley = -20 * jnp.exp(-0.2 * jnp.sqrt(jnp.mean(x**2))) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x)))
        return ackley + 60 + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))

    return f, (draw.uniform(-2, 2, 5),)


@case
def hill_and_michaelis_menten(draw):
    dose, response = np.array([0.1, 0.3, 1.0, 3.0, 10.0]), np.array([0.02, 0.1, 0.45, 0.9, 0.97])

    def loss(p):
        n, k, top = jnp.exp(p)
        return jnp.sum((top * dose**n / (k**n + dose**n) - response) ** 2) + (dose / (k + dose)).sum() * 0.01

    return loss, (draw.array([0.4, 0.1, -0.2]),)


@case(argnums=(0, 1, 2, 3))
def black_scholes_price(draw):
    def call(spot, volatility, rate, time, strike):
        cdf = jax.scipy.stats.norm.cdf
        d1 = (jnp.log(spot / strike) + (rate + volatility**2 / 2) * time) / (volatility * jnp.sqrt(time))
        return spot * cdf(d1) - strike * jnp.exp(-rate * time) * cdf(d1 - volatility * jnp.sqrt(time))

    return call, tuple(draw.array(value) for value in (100.0, 0.2, 0.03, 0.5, 105.0))


@case(argnums=(0, 1))
def american_put_on_a_tree(draw):
    def put(spot, volatility):
        up = jnp.exp(volatility * jnp.sqrt(0.05))
        p = (jnp.exp(0.03 * 0.05) - 1 / up) / (up - 1 / up)
        prices = spot * up ** (2.0 * jnp.arange(21) - 20)
        value = jnp.maximum(100 - prices, 0)

        def back(_, state):
            value, prices = state
            prices = prices * up
            kept = jnp.exp(-0.03 * 0.05) * (p * jnp.roll(value, -1) + (1 - p) * value)
            return jnp.maximum(kept, 100 - prices), prices

        return lax.fori_loop(0, 20, back, (value, prices))[0][0]

    return put, (draw.array(97.0), draw.array(0.25))


@case
def sharpe_ratio_of_a_portfolio(draw):
    returns = draw.normal(60, 4, scale=0.01) + 0.0005

    def ratio(logits):
        path = returns @ jax.nn.softmax(logits)
        return -path.mean() / path.std() * jnp.sqrt(252) + 0.1 * jnp.sum((path < 0) * path**2)

    return ratio, (draw.normal(4),)


# Kinks


@case(notes="kinks at 1e-7, 3e-6 and 1e-3 from the point")
def kinks_very_near(draw):
    x = draw.uniform(0.4, 0.6, 3)
    centres = x - draw.array([1.2e-7, -3e-6, 1e-3])
    return lambda x: jnp.sum(jnp.abs(x - centres) * jnp.array([1.0, 2.0, 3.0])), (x,)


@case(notes="at the kink: exact zeros")
def lasso_with_zero_coefficients(draw):
    x, y = draw.normal(12, 6), draw.normal(12)

    def loss(w):
        return jnp.mean((x @ w - y) ** 2) + 0.3 * jnp.abs(w).sum()

    return loss, (draw.array([0.5, 0.0, -1.2, 0.0, 0.0, 0.3]),)


@case(notes="at the kink: jax shares the slope among equals")
def largest_of_equals(draw):
    return lambda x: jnp.max(x) ** 2 + jnp.sum(x**2), (draw.array([1.0, 2.0, 2.0, 0.5]),)


@case(notes="at the kink: padded rows and biases that are zero")
def relu_network_at_zero(draw):
    x = draw.normal(5, 4).at[3:].set(0)

    def loss(params):
        return jnp.sum(jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"])

    return loss, ({"w": draw.normal(4, 6), "b": jnp.zeros(6, draw.dtype), "v": draw.normal(6)},)


@case(notes="at the kink: margins of exactly 1")
def hinge_at_its_margin(draw):
    x, y = draw.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, -1.0, 1.0])
    return lambda w: jnp.sum(jnp.maximum(0, 1 - y * (x @ w))) + 0.5 * (w @ w), (draw.array([1.0, -0.5]),)


@case
def hundreds_of_kinks(draw):
    x, y = draw.normal(60, 6), draw.normal(60)

    def loss(params):
        return jnp.mean(jnp.abs(forward(params, x, jax.nn.relu)[:, 0] - y))

    return loss, (draw.layers(6, 12, 12, 1),)
