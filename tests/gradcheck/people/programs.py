"""Order and choice, control flow and rules of one's own."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from people.catalogue import case, forward

# Order and choice


@case
def wasserstein_by_sorting(draw):
    y = jnp.sort(draw.normal(15))
    return lambda x: jnp.mean(jnp.abs(jnp.sort(x) - y) ** 2), (draw.normal(15),)


@case
def hard_examples_by_top_k(draw):
    labels = draw.rng.integers(0, 3, 14)

    def loss(w, x):
        each = -jax.nn.log_softmax(x @ w)[jnp.arange(14), labels]
        return lax.top_k(each, 5)[0].mean()

    return loss, (draw.normal(4, 3), draw.normal(14, 4))


@case
def median_and_absolute_deviation(draw):
    def f(x):
        centre = jnp.median(x)
        return centre + jnp.median(jnp.abs(x - centre)) * jnp.std(x)

    return f, (draw.normal(11),)


@case
def quantiles_and_value_at_risk(draw):
    returns = draw.normal(40, 3)

    def risk(w):
        total = returns @ jax.nn.softmax(w)
        edge = jnp.quantile(total, 0.1)
        return -jnp.mean(jnp.where(total < edge, total, 0)) + jnp.percentile(total, 90)

    return risk, (draw.normal(3),)


@case
def soft_rank(draw):
    aim = np.argsort(np.argsort(draw.rng.standard_normal(8))) + 1.0

    def loss(scores):
        rank = 0.5 + jax.nn.sigmoid((scores[:, None] - scores) / 0.5).sum(1)
        return 1 - jnp.corrcoef(rank, aim)[0, 1]

    return loss, (draw.normal(8),)


@case
def gini_and_trimmed_mean(draw):
    def f(x):
        s = x[jnp.argsort(x)]
        n = s.size
        gini = jnp.sum((2 * jnp.arange(1, n + 1) - n - 1) * s) / (n * s.sum())
        return gini + s[2:-2].mean()

    return f, (draw.uniform(1, 5, 12),)


@case(argnums=(0, 1))
def sinkhorn_distance(draw):
    def distance(x, y):
        cost = jnp.sum((x[:, None] - y) ** 2, -1)
        f, g = jnp.zeros(6, cost.dtype), jnp.zeros(7, cost.dtype)
        for _ in range(25):
            f = -0.5 * jax.nn.logsumexp((g - cost) / 0.5 - jnp.log(7), axis=1)
            g = -0.5 * jax.nn.logsumexp((f[:, None] - cost) / 0.5 - jnp.log(6), axis=0)
        return f.mean() + g.mean()

    return distance, (draw.normal(6, 2), draw.normal(7, 2))


@case
def soft_dynamic_time_warping(draw):
    b = draw.normal(7)

    def distance(a):
        cost = (a[:, None] - b) ** 2

        def row(above, costs):
            def cell(left, inputs):
                c, up, corner = inputs
                new = c - jax.nn.logsumexp(-jnp.stack([left, up, corner]))
                return new, new

            _, new = lax.scan(cell, jnp.full((), 1e10, a.dtype), (costs, above[1:], above[:-1]))
            return jnp.concatenate([jnp.full(1, 1e10, a.dtype), new]), None

        first = jnp.full(8, 1e10, a.dtype).at[0].set(0)
        return lax.scan(row, first, cost)[0][-1]

    return distance, (draw.normal(6),)


@case(argnums=(0, 1), notes="by type: Gumbel noise drawn inside in the default type")
def gumbel_softmax(draw):
    values = draw.normal(5)

    def loss(logits, temperature, key):
        noise = jax.random.gumbel(key, (8, 5))
        return jnp.mean((jax.nn.softmax((logits + noise) / temperature) @ values) ** 2)

    return loss, (draw.normal(5), draw.array(0.7), jax.random.key(5))


@case(needs="optax", notes="piecewise linear")
def projection_onto_the_simplex(draw):
    import optax

    v = draw.normal(6)
    return lambda x: jnp.sum(optax.projections.projection_simplex(x) * v), (draw.normal(6),)


@case(argnums=(0, 1))
def logits_of_the_largest_and_its_runner_up(draw):
    def margin(x, w):
        z = x @ w
        best = jnp.argmax(z, axis=1)
        other = jnp.max(jnp.where(jax.nn.one_hot(best, 5) > 0, -jnp.inf, z), axis=1)
        return jnp.sum(jnp.take_along_axis(z, best[:, None], 1)[:, 0] - other)

    return margin, (draw.normal(4, 3), draw.normal(3, 5))


# Control flow and rules


@case
def cumulative_operations(draw):
    def f(x):
        return (
            jnp.sum(jnp.cumprod(1 + 0.1 * x))
            + jnp.sum(jnp.cumsum(x) ** 2) / 10
            + lax.cumlogsumexp(x)[-3]
            + lax.cummax(x).sum()
        )

    return f, (draw.normal(12),)


@case
def fori_loop_of_power_iterations(draw):
    def f(a):
        def step(_, v):
            v = a @ a.T @ v
            return v / jnp.linalg.norm(v)

        v = lax.fori_loop(0, 30, step, jnp.ones(4, a.dtype))
        return v @ a @ a.T @ v

    return f, (draw.normal(4, 4),)


@case(gradient=jax.jacfwd, notes="a while loop has no reverse mode")
def while_loop_of_newton_steps(draw):
    def root(a):
        def step(state):
            n, x = state
            return n + 1, x - (x**3 + a[0] * x - a[1]) / (3 * x**2 + a[0])

        return lax.while_loop(lambda s: s[0] < 15, step, (0, jnp.ones((), a.dtype)))[1]

    return root, (draw.array([1.4, 3.7]),)


@case(argnums=(0, 1))
def switch_of_activations(draw):
    kinds = np.array([0, 2, 1, 0, 1])

    def f(w, x):
        def layer(x, inputs):
            kind, w = inputs
            return lax.switch(kind, [jnp.tanh, jnp.sin, lambda z: z / (1 + z**2)], w @ x), None

        return jnp.sum(lax.scan(layer, x, (kinds, w))[0] ** 2)

    return f, (draw.normal(5, 3, 3), draw.normal(3))


@case
def custom_jvp_of_log1pexp(draw):
    @jax.custom_jvp
    def log1pexp(x):
        return jnp.log1p(jnp.exp(x))

    @log1pexp.defjvp
    def _(primals, tangents):
        return log1pexp(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]

    return lambda x: jnp.sum(log1pexp(x) ** 2), (draw.normal(8, scale=4),)


@case(argnums=(0, 1, 2))
def custom_vjp_of_a_clip(draw):
    @jax.custom_vjp
    def clip(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def ahead(x, low, high):
        return clip(x, low, high), (x, low, high)

    def back(kept, g):
        x, low, high = kept
        inside = (x > low) & (x < high)
        return (
            jnp.where(inside, g, 0),
            jnp.sum(jnp.where(x <= low, g, 0)),
            jnp.sum(jnp.where(x >= high, g, 0)),
        )

    clip.defvjp(ahead, back)
    return lambda x, low, high: jnp.sum(clip(x, low, high) ** 3), (
        draw.normal(9),
        draw.array(-0.4),
        draw.array(0.7),
    )


@case(notes="nondiff_argnums and a residual of integers")
def custom_vjp_of_a_gather(draw):
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def take(table, size, ids):
        return table[ids] * size

    def ahead(table, size, ids):
        return take(table, size, ids), (ids, table.shape)

    def back(size, kept, g):
        ids, shape = kept
        return jnp.zeros(shape, g.dtype).at[ids].add(size * g), np.zeros(ids.shape, jax.dtypes.float0)

    take.defvjp(ahead, back)
    ids = np.array([0, 3, 3, 1])
    return lambda table: jnp.sum(take(table, 3, jnp.asarray(ids)) ** 2), (draw.normal(5, 2),)


@case
def custom_root_of_an_implicit_function(draw):
    def loss(a):
        def residual(y):
            return y - jnp.cos(a * y)

        def solve(g, guess):
            return lax.fori_loop(
                0, 20, lambda _, y: y - g(y) / jax.jvp(g, (y,), (jnp.ones_like(y),))[1], guess
            )

        y = lax.custom_root(residual, 0.7 * jnp.ones_like(a), solve, lambda g, y: y / g(jnp.ones_like(y)))
        return jnp.sum(y**2)

    return loss, (draw.uniform(0.5, 1.5, 4),)


@case
def scan_of_checkpointed_layers(draw):
    x = draw.normal(4, 5)

    @jax.checkpoint
    def layer(x, w):
        return jnp.sin(x @ w) + x, jnp.max(x)

    def loss(ws):
        x_last, peaks = lax.scan(layer, x, ws)
        return jnp.mean(x_last**2) + peaks.sum()

    return loss, (draw.normal(4, 5, 5, scale=0.4),)


@case(notes="static arguments: an integer and a string")
def jitted_with_static_arguments(draw):
    @partial(jax.jit, static_argnums=(1, 2))
    def f(x, power, kind):
        y = x**power
        return jnp.sum(jnp.sqrt(1 + y**2)) if kind == "smooth" else jnp.sum(jnp.abs(y))

    return f, (draw.normal(6), 3, "smooth")


@case
def laplacian_by_lax_map(draw):
    points = draw.normal(4, 2)

    def loss(params):
        def u(x):
            return forward(params, x, jnp.sin)[0]

        return jnp.mean(lax.map(lambda x: jnp.trace(jax.hessian(u)(x)), points) ** 2)

    return loss, (draw.layers(2, 6, 1),)


@case(argnums=(0, 2))
def first_and_third_arguments(draw):
    def f(a, n, b):
        return jnp.sum(jnp.stack([jnp.sin(k * a) for k in range(1, n)]) @ b["v"]) + b["c"][0] ** 2

    return f, (draw.normal(5), 4, {"v": draw.normal(5), "c": (draw.array(0.3), None)})


@case(notes="several outputs, one of them 0-d")
def dictionary_of_outputs(draw):
    def f(x):
        return {"u": jnp.sin(x), "v": x[0] * x[1], "w": (jnp.outer(x, x[:2]),)}

    return f, (draw.normal(4),)


@case
def scatter_and_dynamic_slices(draw):
    ids = np.array([0, 4, 4, 2])

    def f(x, start):
        bins = jnp.zeros(6, x.dtype).at[ids].add(x**2).at[1].set(jnp.exp(x[0])).at[2].mul(x[3])
        bins = bins.at[5].max(x[1])
        window = lax.dynamic_slice(jnp.pad(bins, 2, mode="edge"), (start,), (5,))
        return jnp.sum(lax.dynamic_update_slice(bins, window[:2] ** 2, (start,)) * jnp.arange(6))

    return f, (draw.normal(4), 3)


@case
def named_tuple_of_parameters(draw):
    class Params(NamedTuple):
        rate: Array
        weights: dict

    def f(p):
        return jnp.sum(jnp.exp(-p.rate * p.weights["a"] ** 2)) + (1 + p.weights["b"].mean()) ** 3

    return f, (Params(draw.array(0.7), {"a": draw.normal(5), "b": draw.normal(2, 3)}),)


@case(notes="the cast is meant; in float64 it makes f a staircase")
def float32_inside(draw):
    def f(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32)) * x)

    return f, (draw.normal(6),)
