"""Right functions, in which no operation may be named."""

import diffrax
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental.ode import odeint
from jax.scipy import special
from planted import BATCH, W1, W2, X, normal

RIGHT = {}


def right(*args):
    """Put a function without a fault, and its arguments, on the table."""

    def register(f):
        RIGHT[f.__name__] = (f, args)
        return f

    return register


@jax.custom_vjp
def fair_tanh(x):
    return jnp.tanh(x)


fair_tanh.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda y, g: (g * (1 - y**2),))


@jax.custom_jvp
def fair_log1pexp(x):
    return jnp.log1p(jnp.exp(x))


fair_log1pexp.defjvp(lambda p, t: (fair_log1pexp(p[0]), jax.nn.sigmoid(p[0]) * t[0]))


@right(W1, BATCH, W2)
def mlp(w, x, v):
    logits = jax.nn.relu(x @ w) @ v
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(8) % 3).mean()


@right(normal(3, 2, 3, 3), normal(2, 2, 8, 8))
def convolution(kernel, images):
    y = lax.conv_general_dilated(images, kernel, (1, 1), "SAME")
    pooled = lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return jnp.mean(pooled**2)


@right((normal(4, 24) / 2, normal(6, 24, seed=1) / 2), normal(7, 4))
def lstm(weights, xs):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ weights[0] + h @ weights[1], 4)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jnp.sum(lax.scan(step, (jnp.zeros(6), jnp.zeros(6)), xs)[1] ** 2)


@right(normal(3, 4, 4), normal(2, 5, 4))
def attention(weights, x):
    q, k, v = (x @ w for w in weights)
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.mT / 2, -jnp.inf)
    y = jax.nn.softmax(scores) @ v
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return jnp.sum(jax.nn.gelu(y) ** 2)


@right(normal(4, 4))
def cholesky(a):
    factor = jnp.linalg.cholesky(a @ a.T + jnp.eye(4))
    return jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(factor**3)


@right(normal(4, 4))
def eigenvalues(a):
    values, vectors = jnp.linalg.eigh(a + a.T)
    return jnp.sum(values**2 * jnp.arange(4)) + jnp.sum(vectors[:, 0] ** 4)


@right(normal(4, 3))
def singular_values(a):
    u, s, _ = jnp.linalg.svd(a, full_matrices=False)
    return jnp.sum(s**3) + jnp.sum(u[:, 0] ** 4)


@right(np.eye(3, dtype=np.float32))
def singular_values_that_are_equal(a):
    return jnp.sum(jnp.linalg.svd(a, compute_uv=False))


@right(normal(5, 3))
def qr(a):
    q, r = jnp.linalg.qr(a)
    return jnp.sum(q**3) + jnp.sum(jnp.abs(r))


@right(normal(4, 4), normal(4))
def solve(a, b):
    return jnp.sum(jnp.linalg.solve(a + 4 * jnp.eye(4), b) ** 2)


@right(normal(4, 4))
def lu_and_determinant(a):
    lu = jax.scipy.linalg.lu(a)[2]
    return jnp.linalg.slogdet(a + 3 * jnp.eye(4))[1] + jnp.sum(lu**2) + jnp.linalg.det(a)


@right(normal(4, 4))
def matrix_functions(a):
    return jnp.sum(jnp.linalg.matrix_power(a / 4, 3)) + jnp.trace(jnp.linalg.inv(a + 4 * jnp.eye(4)))


@right(normal(4, 4))
def triangular(a):
    return jnp.sum(jax.scipy.linalg.solve_triangular(a + 3 * jnp.eye(4), jnp.ones(4), lower=True) ** 2)


@right(normal(16))
def fourier(x):
    spectrum = jnp.fft.rfft(x)
    return jnp.sum(jnp.abs(spectrum) ** 2 * jnp.arange(9)) + jnp.fft.irfft(spectrum * 2j)[3] ** 3


@right(normal(8))
def complex_numbers(x):
    z = jnp.exp(1j * x) * (x + 2j)
    return jnp.sum(jnp.real(z**3 / (1 + jnp.conj(z) * z))) + jnp.sum(jnp.angle(z))


@right(normal(9))
def sorting(x):
    ordered = jnp.sort(x)
    return jnp.sum(ordered * jnp.arange(9)) + jnp.median(x) + lax.top_k(x, 3)[0].sum() + x[jnp.argsort(x)][2]


@right(1e4 * normal(6))
def log_sums(x):
    return (
        jax.nn.logsumexp(x)
        + jax.nn.log_softmax(x)[2]
        + jnp.logaddexp(x[0], x[1])
        + jax.nn.softmax(x / 1e4)[1]
    )


@right(X)
def right_rules(x):
    return jnp.sum(fair_tanh(x) * fair_log1pexp(4 * x))


@right(40 * X)
def saturated_rules(x):
    return jnp.sum(fair_tanh(x)) + jnp.sum(jax.nn.sigmoid(x)) + jnp.sum(special.erf(x) + fair_log1pexp(x / 2))


@right(np.array([0.0, 1.0, -1.0, 0.0], np.float32))
def relu_at_zero(x):
    return jnp.sum(
        jax.nn.relu(x) * 2 + jnp.abs(x) + jax.nn.leaky_relu(x) + jnp.clip(x, -1, 1) + jax.nn.relu6(x)
    )


@right(np.array([2.0, 2.0, 1.0, 2.0], np.float32))
def ties(x):
    return jnp.max(x) + jnp.minimum(x, 2).sum() + jnp.sort(x)[1] + jnp.maximum(x, x[::-1]) @ jnp.arange(4.0)


@right(normal(8, 4).astype(jnp.bfloat16), normal(4, 4))
def mixed_precision(x, w):
    h = jnp.tanh(x @ w.astype(jnp.bfloat16)).astype(jnp.float32)
    return jnp.mean(jax.nn.softmax(h)[:, 0] + h.astype(jnp.bfloat16).sum(1).astype(jnp.float32) ** 2)


@right(normal(6, 3))
def gather_and_scatter(table):
    rows = table[jnp.array([0, 2, 2, 5])]
    out = (
        jnp.zeros((6, 3)).at[jnp.array([1, 1, 3, 4])].add(jnp.sin(rows)).at[0].set(rows[0]).at[2].mul(rows[1])
    )
    return jnp.sum(out**2) + jnp.sum(table.at[jnp.array([0, 3])].max(0.1))


@right(normal(8))
def cumulative(x):
    return jnp.sum(jnp.cumsum(x) ** 2 + jnp.cumprod(x) + lax.cummax(x) + lax.cumlogsumexp(x) * jnp.prod(x))


@right(normal(9), np.array([0, 0, 1, 2, 2, 2, 4, 4, 4]))
def segments(x, which):
    total = jax.ops.segment_sum(jnp.exp(x), which, 5)
    return jnp.sum(jnp.log(total + 1)) + jax.ops.segment_max(x, which, 5)[0] * 2


@right(np.abs(normal(6)) + 0.3)
def special_functions(x):
    return jnp.sum(
        special.gammaln(x) + special.digamma(x + 1) + special.betainc(2.0, 1.5, x / 9) + special.i0e(x)
    )


@right(normal(5) / 4)
def more_special_functions(x):
    values = (
        special.erfinv(x)
        + special.ndtri(x + 0.5)
        + special.gammainc(x + 2, 1.5)
        + jax.scipy.stats.norm.logcdf(9 * x)
    )
    return jnp.sum(values + jnp.sinc(x) + special.entr(x + 1) + special.xlogy(x + 1, x + 2) + special.i1e(x))


@right(normal(4, 3))
def norms(x):
    return (
        jnp.sum(jnp.linalg.norm(x, axis=1))
        + jnp.linalg.norm(x)
        + jnp.linalg.norm(x, 1)
        + optax.safe_norm(x * 0, 0.1)
    )


@right(np.array([0.0, -1.0, 4.0], np.float32))
def double_where(x):
    return jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0))


@right(np.array([0.5, 3.0], np.float32))
def branches(x):
    y = lax.cond(x[0] > 0, lambda x: jnp.sin(x), lambda x: jnp.log(x - 10), x)
    return jax.vmap(lambda v: lax.cond(v > 1, jnp.log, jnp.exp, v))(x).sum() + y.sum()


@right(np.float32(0.1))
def chaos(x):
    return lax.scan(lambda c, _: (3.99 * c * (1 - c), None), x, None, length=60)[0]


@right(normal(5))
def relu_recurrence(x):
    return lax.scan(lambda c, _: (jax.nn.relu(jnp.roll(c, 1) * 1.2 - 0.1), c.max()), x, None, length=30)[
        1
    ].sum()


@right(X)
def remat_and_loops(x):
    block = jax.checkpoint(lambda i, c: jnp.sin(c) * 1.5 + i)
    return lax.fori_loop(0, 5, block, x).sum()


@right(X)
def harmless_stops(x):
    shifted = jnp.exp(x - lax.stop_gradient(x.max()))
    flat = lax.stop_gradient(jnp.floor(x)) + lax.stop_gradient(jax.nn.relu(-jnp.abs(x)))
    return jnp.sum(shifted / shifted.sum() * jnp.arange(5)) + jnp.sum(flat * x)


@right(X)
def flat_operations(x):
    return jnp.sum((x - jnp.floor(x)) ** 2 * jnp.sign(x) + jnp.round(x)) + jnp.argmax(x) * 2.0


@right(np.array([1e-30, 1e-8, 1.0, 1e12], np.float32))
def scales(x):
    return jnp.sum(
        jnp.log(x) + jnp.tanh(x) + jnp.sqrt(x) + 1 / (1 + x) + jnp.exp(-x) + jnp.arctan(x) + jnp.log1p(x)
    )


@right(np.array([1e6, -3e7, 123456.0], np.float32))
def many_periods(x):
    return jnp.sum(jnp.sin(x) + jnp.cos(x))


@right(normal(3))
def steep(x):
    return jnp.sum(jnp.tanh(1e6 * (x - x[0] + 1e-7)) + (1e-3 / (x + 2.5)) ** 12)


@right(normal(3))
def random_numbers(x):
    noise = jax.random.normal(jax.random.key(0), (3,))
    gamma = jax.random.gamma(jax.random.key(1), jnp.exp(x))
    return jnp.sum(jnp.exp(x) * noise) + gamma.sum()


@right(np.float32(0.7))
def implicit_root(a):
    def newton(f, y):
        return lax.fori_loop(0, 20, lambda _, y: y - f(y) / jax.grad(f)(y), y)

    return lax.custom_root(lambda y: y - jnp.cos(a * y), 1.0, newton, lambda g, y: y / g(1.0)) ** 2


@right(np.float32(0.7))
def loose_root(a):
    def bisect(f, y):
        def body(ends):
            middle = (ends[0] + ends[1]) / 2
            above = f(middle) > 0
            return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

        return lax.while_loop(lambda ends: ends[1] - ends[0] > 1e-4, body, (y - 1, y + 1.0))[0]

    return lax.custom_root(lambda y: y - jnp.cos(a * y), 0.5, bisect, lambda g, y: y / g(1.0))


@right(np.float32(0.7))
def adaptive_ode(a):
    return odeint(
        lambda y, t: -a * y + jnp.sin(t), jnp.ones_like(a), jnp.linspace(0.0, 2, 3).astype(a.dtype)
    )[-1]


@right(np.float32(0.7))
def diffrax_ode(a):
    term = diffrax.ODETerm(lambda t, y, a: -a * y)
    return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0, 1, 0.1, jnp.float32(1.0), a).ys[0]


@right(eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0)), normal(4, 3))
def equinox_mlp(model, x):
    return jnp.mean(jax.vmap(model)(x) ** 2)


CNN = nn.Sequential([nn.Conv(4, (3, 3)), nn.LayerNorm(), nn.gelu, lambda x: x.mean((1, 2)), nn.Dense(3)])


@right(CNN.init(jax.random.key(0), normal(2, 6, 6, 1)), normal(2, 6, 6, 1))
def flax_cnn(params, x):
    return optax.softmax_cross_entropy_with_integer_labels(CNN.apply(params, x), jnp.array([0, 2])).sum()


@right(normal(4, 2))
def lennard_jones(x):
    d2 = jnp.sum((x[:, None] - x[None]) ** 2, -1) + jnp.eye(4)
    return jnp.sum(jnp.where(jnp.eye(4), 0, 1 / d2**6 - 1 / d2**3))


@right(normal(3), normal(5, 3))
def hidden_markov(x, emissions):
    def step(a, e):
        return jax.nn.logsumexp(a[:, None] + jnp.outer(x, x), axis=0) + e, None

    return jax.nn.logsumexp(lax.scan(step, x, emissions)[0])


@right(X)
def mapped_callback(x):
    @jax.custom_jvp
    def host_sin(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")

    host_sin.defjvp(lambda p, t: (host_sin(p[0]), jnp.cos(p[0]) * t[0]))
    return host_sin(2 * x).sum()
