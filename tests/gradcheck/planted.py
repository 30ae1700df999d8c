"""Functions with a fault in their derivative, and the line that has it marked by its kind.

A mark stands where the operation is called: `# <- wrong rule`. Nothing else in the function is at fault.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback


class Fault(NamedTuple):
    f: Callable[..., Any]
    args: tuple[Any, ...]
    x64: bool
    """Whether it takes x64 to be enabled."""
    expected: set[tuple[str, str]]
    """Of every marked line: "planted.py:12" and the kind."""


FAULTS: dict[str, Fault] = {}


def planted(*args, x64=False, also=()):
    """Put a function and its arguments on the table; also: what else holds marked lines."""

    def register(f):
        expected = set()
        for part in (f, *also):
            lines, start = inspect.getsourcelines(part)
            for number, line in enumerate(lines, start):
                if mark := re.search(r"# <- ([a-z ]+)$", line.rstrip()):
                    expected.add((f"planted.py:{number}", mark[1]))
        assert expected, f.__name__
        FAULTS[f.__name__] = Fault(f, args, x64, expected)
        return f

    return register


def normal(*shape, seed=0, dtype=np.float32):
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


X = normal(5)
W1, W2 = normal(4, 6, seed=1), normal(6, 3, seed=2)
BATCH = normal(8, 4, seed=3)


# Rules that are wrong.


@jax.custom_vjp
def steep_tanh(x):
    return jnp.tanh(x)


steep_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (1.02 * g * (1 - jnp.tanh(x) ** 2),))


@jax.custom_jvp
def steep_sin(x):
    return jnp.sin(x)


steep_sin.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 1.02 * jnp.cos(primals[0]) * tangents[0]))


@jax.custom_vjp
def swapped(x, y):
    return jnp.sin(x) * y**2


swapped.defvjp(
    lambda x, y: (jnp.sin(x) * y**2, (x, y)),
    lambda xy, g: (g * jnp.sin(xy[0]) * 2 * xy[1], g * jnp.cos(xy[0]) * xy[1] ** 2),
)


@jax.custom_jvp
def forgetful(x, y):
    return x * jnp.exp(y)


@forgetful.defjvp
def _(primals, tangents):
    x, y = primals
    return x * jnp.exp(y), tangents[0] * jnp.exp(y)


@jax.custom_vjp
def times(a, b):
    return a @ b


times.defvjp(lambda a, b: (a @ b, (a, b)), lambda ab, g: (g @ ab[1], ab[0].T @ g))


@jax.custom_vjp
def narrow_sin(x):
    return jnp.sin(x)


narrow_sin.defvjp(
    lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) * (1 if x.dtype == jnp.float64 else -1e6),)
)


@jax.custom_vjp
def late_square(x):
    return x**2


late_square.defvjp(lambda x: (x**2, x), lambda x, g: (g * jnp.where(x > 1, 2.1 * x, 2 * x),))


@jax.custom_vjp
def dead_cube(x):
    return x**3


dead_cube.defvjp(lambda x: (x**3, x), lambda x, g: (jnp.zeros_like(g),))


@jax.custom_jvp
def dead_square(x):
    return x**2


dead_square.defjvp(lambda primals, tangents: (primals[0] ** 2, jnp.zeros_like(tangents[0])))


@jax.custom_vjp
def mean_row(x):
    return x.mean(0)


mean_row.defvjp(lambda x: (x.mean(0), x), lambda x, g: (jnp.broadcast_to(g, x.shape),))


@jax.custom_vjp
def log_sum(x):
    return jax.nn.logsumexp(x)


log_sum.defvjp(lambda x: (jax.nn.logsumexp(x), x), lambda x, g: (g * jnp.exp(x),))


@jax.custom_vjp
def nan_rule(x):
    return x * 2


nan_rule.defvjp(lambda x: (x * 2, x), lambda x, g: (g * 2 * (x - x) / (x - x),))


@jax.custom_vjp
def raising(x):
    return jnp.sin(x)


def _raise(x, g):
    raise RuntimeError("not written yet")


raising.defvjp(lambda x: (jnp.sin(x), x), _raise)


@jax.custom_jvp
def refusing(x):
    return jnp.sin(x)


@refusing.defjvp
def _(primals, tangents):
    raise NotImplementedError("only forwards")


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@jax.custom_vjp
def host_exp(x):
    return jax.pure_callback(np.exp, x, x, vmap_method="sequential")


host_exp.defvjp(lambda x: (host_exp(x), x), lambda x, g: (g * (1 + x),))


# In straight code.


@planted(X)
def wrong_vjp(x):
    y = jnp.cos(x)
    y = steep_tanh(y) * x  # <- wrong rule
    return y.sum()


@planted(X)
def wrong_jvp(x):
    return jnp.sum(x * steep_sin(x + 1))  # <- wrong rule


@planted(normal(5, dtype=np.float64), x64=True)
def wrong_vjp_in_float64(x):
    y = jnp.exp(steep_tanh(x))  # <- wrong rule
    return jnp.sum(y**2)


@planted(jnp.asarray(X, jnp.bfloat16))
def dead_in_bfloat16(x):
    y = dead_cube(jnp.tanh(x))  # <- stopped
    return jnp.sum(y + x)


@planted(X)
def arguments_swapped(x):
    z = swapped(  # <- wrong rule
        x,
        jnp.cos(x),
    )
    return z.sum()


@planted(X)
def tangent_forgotten(x):
    return forgetful(x, x**2).sum()  # <- wrong rule


@planted(normal(4, 4))
def transpose_forgotten(a):
    b = times(a, jnp.tanh(a))  # <- wrong rule
    return jnp.sum(b**2)


@planted(X)
def wrong_in_float32_only(x):
    return narrow_sin(x).sum()  # <- wrong rule


@planted(np.array([0.2, 0.9, 1.5, -2.0], np.float32))
def wrong_beyond_one(x):
    y = late_square(x)  # <- wrong rule
    return jnp.sum(jnp.sin(y))


@planted(np.linspace(-3, 1.01, 400, dtype=np.float32))
def wrong_in_one_element_of_400(x):
    return late_square(x).sum()  # <- wrong rule


@planted(X)
def dead_vjp(x):
    return jnp.sum(x + dead_cube(x))  # <- stopped


@planted(X)
def dead_jvp(x):
    return jnp.sum(jnp.sin(x) * dead_square(x))  # <- stopped


@planted(BATCH)
def mean_as_sum(x):
    return jnp.sum(mean_row(x) ** 2)  # <- wrong rule


@planted(X)
def softmax_not_normalized(x):
    return log_sum(x * 2)  # <- wrong rule


@planted(X)
def gradient_clipped(x):
    return jnp.sum(clipped(x) ** 2)  # <- wrong rule


@planted(W1, BATCH, W2)
def hidden_layer(w, x, v):
    h = steep_tanh(x @ w)  # <- wrong rule
    logits = h @ v
    logits = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    return -logits[:, 0].mean()


@planted(X)
def two_rules(x):
    y = steep_sin(x)  # <- wrong rule
    z = jnp.exp(y) + 1
    return jnp.sum(swapped(z, y))  # <- wrong rule


@planted(X)
def three_kinds(x):
    y = steep_tanh(x)  # <- wrong rule
    z = lax.stop_gradient(y * x)  # <- stopped
    return jnp.sum(z * y) + jnp.linalg.norm(x - x)  # <- not finite


@planted(X)
def layers_of_rules(x):
    for _ in range(3):
        x = steep_tanh(x) + jnp.sin(x)  # <- wrong rule
    return x.sum()


@planted(X)
def rule_around_a_rule(x):
    @jax.custom_vjp
    def again(x):
        return jnp.exp(steep_sin(x))  # <- wrong rule

    again.defvjp(lambda x: (again(x), x), lambda x, g: jax.vjp(lambda x: jnp.exp(steep_sin(x)), x)[1](g))
    return again(x * 2).sum()


@planted(X, normal(5, 5) + 5 * np.eye(5, dtype=np.float32))
def transposed_solve_wrong(b, a):
    def solve(_, b):
        return jnp.linalg.solve(a, b)

    x = lax.custom_linear_solve(  # <- wrong rule
        lambda x: a @ x, jnp.sin(b), solve, transpose_solve=solve
    )
    return jnp.sum(x**2)


@planted(normal(5, 5) + 5 * np.eye(5, dtype=np.float32), X)
def transposed_solve_wrong_of_a_fixed_side(a, b):
    def solve(_, b):
        return jnp.linalg.solve(a, b)

    return lax.custom_linear_solve(lambda x: a @ x, b, solve, transpose_solve=solve).sum()  # <- wrong rule


@planted(X)
def rule_of_a_host_function(x):
    y = host_exp(x)  # <- wrong rule
    return jnp.sum(y * x)


# Not finite.


@planted(np.array([0.0, 4.0], np.float32))
def sqrt_behind_where(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0).sum()  # <- not finite


@planted(np.array([0.0, 0.5, -1.0], np.float32))
def log_behind_where(x):
    y = x * 3
    safe = jnp.log(y)  # <- not finite
    return jnp.sum(jnp.where(y > 0, safe, -1.0) * x)


@planted(np.zeros(3, np.float32))
def norm_at_zero(x):
    return jnp.linalg.norm(x) * 2  # <- not finite


@planted(np.array([1.0, 0.0], np.float32), np.array([2.0, 0.0], np.float32))
def quotient_behind_where(x, y):
    return jnp.where(x == 0, 0.0, y / x).sum()  # <- not finite


@planted(np.array([1.0, 200.0], np.float32))
def exp_overflows_behind_where(x):
    big = jnp.exp(x)  # <- not finite
    return jnp.where(x > 20, x, jnp.log1p(big)).sum()


@planted(np.array([1.0, 20.0], np.float16))
def exp_overflows_in_float16(x):
    return jnp.where(x < 10, jnp.exp(x), x).sum()  # <- not finite


@planted(np.array([0.3, 1.0], np.float32))
def arccos_at_one(x):
    return jnp.sum(jnp.arccos(x) ** 2)  # <- not finite


@planted(np.array([100.0, 2.0], np.float32))
def softmax_by_hand(x):
    e = jnp.exp(x)  # <- not finite
    return (e / e.sum())[1]


@planted(np.array([-200.0, 1.0], np.float32))
def log_of_sigmoid(x):
    return -jnp.log(jax.nn.sigmoid(x)).sum()  # <- not finite


@planted(np.ones((4, 3), np.float32))
def deviation_of_constants(x):
    return jnp.std(x, axis=0).sum()  # <- not finite


@planted(np.zeros(3, np.float32), np.ones(3, np.float32))
def cosine_of_zero(a, b):
    lengths = jnp.sqrt(a @ a) * jnp.sqrt(b @ b)
    cosine = a @ b / lengths  # <- not finite
    return jnp.where(jnp.all(a == 0), 0.0, cosine)


@planted(np.array([0.0, 0.25, 0.75], np.float32))
def entropy_with_a_zero(p):
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0.0))  # <- not finite


@planted(np.array([0.5, 3.0], np.float32))
def infinite_value(x):
    return -jnp.log(jnp.maximum(x - 1, 0)).sum()  # <- not finite


@planted(np.zeros(2, np.float32))
def angle_at_the_origin(x):
    return jnp.arctan2(x[0], x[1])  # <- not finite


@planted(np.array([0.0, 2.0], np.float32))
def root_at_zero(x):
    return jnp.sum(x**0.5)  # <- not finite


@planted(np.eye(3, dtype=np.float32))
def equal_eigenvalues(a):
    _, vectors = jnp.linalg.eigh(a)  # <- not finite
    return jnp.sum(vectors**3)


@planted(X)
def rule_gives_nan(x):
    return jnp.sum(nan_rule(jnp.sin(x)) * x)  # <- not finite


@planted(normal(4, 2))
def distances_to_itself(points):
    differences = points[:, None] - points[None]
    squares = jnp.sum(differences**2, -1)
    distances = jnp.sqrt(squares)  # <- not finite
    return jnp.sum(jnp.where(jnp.eye(4, dtype=bool), 0.0, distances))


# Stopped.


@planted(X)
def plainly_stopped(x):
    return jnp.sum(lax.stop_gradient(jnp.sin(x)) * x)  # <- stopped


@planted(X)
def straight_through(x):
    y = x * 2
    quantized = y + lax.stop_gradient(jnp.round(y) - y)  # <- stopped
    return jnp.sum(quantized**2)


@planted(W1, BATCH)
def bootstrap_target(w, x):
    value = jnp.tanh(x @ w).sum(1)
    target = lax.stop_gradient(0.9 * value[1:] + 1)  # <- stopped
    return jnp.mean((value[:-1] - target) ** 2)


@planted(BATCH)
def statistics_stopped(x):
    mean, variance = x.mean(0), x.var(0)
    scale = lax.stop_gradient(jnp.sqrt(variance + 1e-3))  # <- stopped
    return jnp.sum(jnp.tanh((x - mean) / scale) ** 3)


# Without a derivative.


@planted(X)
def callback(x):
    y = jax.pure_callback(  # <- no derivative
        np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
    )
    return jnp.sum(y * x)


@planted(X)
def logged(x):
    io_callback(lambda _: None, None, x)  # <- no derivative
    return jnp.sum(x**2)


@planted(X)
def unwritten_rule(x):
    return jnp.sum(raising(x) * x)  # <- no derivative


@planted(X)
def refused_rule(x):
    return jnp.sum(refusing(x) * x)  # <- no derivative


@planted(np.float32(0.3))
def condition_loop(x):
    return lax.while_loop(  # <- no derivative
        lambda c: c < 10, lambda c: c * 1.5 + 1, x
    )


@planted(np.float32(0.3))
def rule_in_a_while(x):
    def body(c):
        return steep_sin(c) + c * 1.5  # <- wrong rule

    y = lax.while_loop(  # <- no derivative
        lambda c: c < 10,
        body,
        jnp.exp(x),
    )
    return y**2


@planted(normal(3))
def rule_in_a_mapped_while(x):
    def one(x):
        return lax.while_loop(  # <- no derivative
            lambda c: c < 10,
            lambda c: steep_sin(c) + c * 1.5 + 3,  # <- wrong rule
            x,
        )

    return jax.vmap(one)(x).sum()


@planted(X)
def rule_before_a_callback(x):
    y = steep_tanh(x)  # <- wrong rule
    return jax.pure_callback(  # <- no derivative
        np.sum, jax.ShapeDtypeStruct((), x.dtype), y
    )


# Inside of something.


@planted(X)
def in_scan(x):
    def step(h, _):
        h = steep_tanh(h) + 0.5  # <- wrong rule
        return h, None

    return lax.scan(step, x, None, length=6)[0].sum()


@planted(W1, BATCH)
def in_scan_over_data(w, x):
    def step(h, row):
        h = jnp.cos(h + row @ w)
        y = steep_sin(h)  # <- wrong rule
        return h, y

    h, ys = lax.scan(step, jnp.zeros(6), x, reverse=True)
    return jnp.sum(ys**2) + h.sum()


@planted(np.float32(3.0))
def in_the_last_iteration(x):
    def step(c, _):
        return jnp.where(c > 0.5, jnp.sqrt(c - 0.5), 0.0), c  # <- not finite

    return lax.scan(step, x, None, length=5)[1].sum()


@planted(X)
def in_fori_loop(x):
    return lax.fori_loop(0, 4, lambda i, c: steep_tanh(c) * 1.5, x).sum()  # <- wrong rule


@planted(X)
def in_nested_scans(x):
    def inner(c, _):
        return jnp.sin(swapped(c, 1 + c**2)), None  # <- wrong rule

    def outer(c, _):
        return lax.scan(inner, c * 0.9, None, length=3)[0], None

    return lax.scan(outer, x, None, length=2)[0].sum()


@planted(np.float32(0.5))
def in_a_branch(x):
    return lax.cond(
        x > 0,
        lambda x: steep_tanh(x) ** 2,  # <- wrong rule
        lambda x: jnp.sqrt(x),
        x,
    )


@planted(X, 2)
def in_a_switch(x, index):
    branches = [jnp.sin, jnp.cos, lambda x: x * steep_sin(x)]  # <- wrong rule
    return lax.switch(index, branches, x).sum()


@planted(np.float32(0.5))
def in_a_branch_of_a_scan(x):
    def step(c, i):
        c = lax.cond(i == 3, lambda c: dead_cube(c) + c, lambda c: jnp.sin(c) + 1, c)  # <- stopped
        return c, None

    return lax.scan(step, x, jnp.arange(6))[0]


@jax.jit
def jitted_layer(x):
    y = x * 2
    return steep_tanh(y) + y  # <- wrong rule


@planted(X, also=[jitted_layer])
def in_nested_jit(x):
    return jax.jit(lambda x: jitted_layer(x) * 2)(x).sum() + jitted_layer(x + 1).sum()


@planted(BATCH)
def in_vmap(x):
    def one(row):
        return jnp.sum(row * steep_sin(row))  # <- wrong rule

    return jax.vmap(one)(x).sum()


@planted(BATCH)
def in_vmapped_branch(x):
    def one(row):
        return lax.cond(row[0] > 0, lambda r: steep_tanh(r).sum(), lambda r: r.sum(), row)  # <- wrong rule

    return jax.vmap(one)(x).sum()


@planted(X)
def in_lax_map(x):
    return lax.map(lambda v: dead_cube(v) + v, x).sum()  # <- stopped


@planted(X)
def in_remat(x):
    @jax.checkpoint
    def block(x):
        return jnp.sin(steep_tanh(x) * 2)  # <- wrong rule

    return block(block(x)).sum()


@planted(X)
def in_remat_of_a_scan(x):
    @jax.checkpoint
    def step(c, _):
        return jnp.cos(steep_sin(c)), None  # <- wrong rule

    return lax.scan(step, x, None, length=3)[0].sum()


@planted(X)
def stopped_in_scan(x):
    def step(c, _):
        c = c * lax.stop_gradient(jnp.tanh(c)) + 1  # <- stopped
        return c, None

    return lax.scan(step, x, None, length=3)[0].sum()


@planted(X)
def callback_in_scan(x):
    def step(c, _):
        shape = jax.ShapeDtypeStruct(c.shape, c.dtype)
        return jnp.sin(jax.pure_callback(np.cos, shape, c)), None  # <- no derivative

    return lax.scan(step, x, None, length=3)[0].sum()


class Layer(eqx.Module):
    weight: jax.Array
    activation: Callable = jnp.sin

    def __call__(self, x):
        return self.activation(steep_tanh(self.weight @ x))  # <- wrong rule


@planted(Layer(jnp.asarray(normal(3, 4))), BATCH, also=[Layer])
def in_an_equinox_module(layer, x):
    return jax.vmap(layer)(x).sum()


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(3)(x)) * 0.0
        return jnp.sqrt(jnp.sum(x**2, -1))  # <- not finite


FLAX = Dense().init(jax.random.key(0), BATCH)


@planted(FLAX, BATCH, also=[Dense.__call__])
def in_a_flax_module(params, x):
    return Dense().apply(params, x).sum()


@planted(X)
def in_associative_scan(x):
    def combine(a, b):
        return steep_sin(a + b) + a * b  # <- wrong rule

    return lax.associative_scan(combine, x).sum()


@planted(jnp.asarray(X), jnp.asarray(X))
def in_a_batch_of_gradients(x, y):
    def energy(x):
        return jnp.sum(forgetful(x, x) * y)  # <- wrong rule

    return energy(x) + jax.vmap(energy)(jnp.stack([x, 2 * x])).sum()
