"""Wrong and right gradients of every kind that a checker meets: the cases of its tests and benchmark.

Each case is a function, its arguments, and a hand-written gradient, or none where autodiff itself is what may
be wrong. `cause` is a part of what a report may name as the likely cause.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Case(NamedTuple):
    name: str
    right: bool
    f: Callable[..., Any]
    args: tuple[Any, ...]
    candidate: Any = None
    cause: str | None = None


CASES: list[Case] = []
RNG = np.random.default_rng(42)
F32, F16, BF16 = jnp.float32, jnp.float16, jnp.bfloat16


def right(name: str, f: Callable[..., Any], *args: Any, candidate: Any = None) -> None:
    CASES.append(Case(name, True, f, args, candidate))


def wrong(
    name: str, f: Callable[..., Any], *args: Any, candidate: Any = None, cause: str | None = None
) -> None:
    CASES.append(Case(name, False, f, args, candidate, cause))


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def with_vjp(
    f: Callable[..., Any], backward: Callable[..., Any], forward: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """f with a hand-written backward(x, g) instead of its derivative."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(forward or (lambda x: (f(x), x)), backward)
    return wrapped


# A two-layer network, whose gradient is written by hand and then damaged.
X = normal(12, 6)
W = {"b1": normal(5), "b2": normal(4), "w1": normal(6, 5), "w2": normal(5, 4)}


def one_hot(n: int, dtype: Any) -> Any:
    return (jnp.arange(n)[:, None] % 4 == jnp.arange(4)).astype(dtype)


def network_loss(p: Any, x: Any) -> Any:
    z = jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    return -jnp.mean(jnp.sum(one_hot(len(x), z.dtype) * jax.nn.log_softmax(z), axis=1))


def by_hand(p: Any, x: Any) -> dict[str, Any]:
    a = jnp.tanh(x @ p["w1"] + p["b1"])
    dz = (jax.nn.softmax(a @ p["w2"] + p["b2"]) - one_hot(len(x), a.dtype)) / len(x)
    da = (dz @ p["w2"].T) * (1 - a**2)
    return {"b1": da.sum(0), "b2": dz.sum(0), "w1": x.T @ da, "w2": a.T @ dz}


def damaged(**changes: Callable[..., Any]) -> Callable[..., Any]:
    """The network's gradient with some leaves changed: change(leaf, params)."""

    def gradient(p: Any, x: Any) -> Any:
        grads = by_hand(p, x)
        return {k: changes[k](v, p) if k in changes else v for k, v in grads.items()}

    return gradient


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def plant(index: tuple[Any, ...], factor: float) -> Callable[..., Any]:
    return lambda leaf, p: jnp.asarray(leaf).at[index].multiply(factor)


right("network", network_loss, W, X, candidate=by_hand)
for dtype in (F32, F16, BF16):
    right(f"network {dtype.__name__}", network_loss, cast(W, dtype), cast(X, dtype), candidate=by_hand)
right(
    "network ready float32",
    network_loss,
    cast(W, F32),
    cast(X, F32),
    candidate=cast(by_hand(cast(W, F32), cast(X, F32)), F32),
)
for leaf, how, change, cause in (
    ("w1", "times the batch", lambda g, p: g * 12, "12 is the batch size"),
    ("w1", "over the batch", lambda g, p: g / 12, "divided by the batch size, 12"),
    ("b1", "sign", lambda g, p: -g, "the sign is wrong"),
    ("w2", "doubled", lambda g, p: 2 * g, "a factor of ½"),
    ("b2", "halved", lambda g, p: g / 2, "a factor of 2"),
    ("w1", "factor 1.001", lambda g, p: g * 1.001, "a constant factor"),
    ("w2", "zero", lambda g, p: 0 * g, "is zero"),
    ("w1", "weight decay", lambda g, p: g + 1e-3 * p["w1"], "weight decay"),
    ("w2", "missing term", lambda g, p: g - 0.1 * p["w2"], "weight decay"),
    ("w2", "rolled", lambda g, p: jnp.roll(g, 1, 0), "rolled by one"),
    ("b2", "rolled", lambda g, p: jnp.roll(g, 1), "rolled by one"),
    ("w1", "reversed", lambda g, p: g[:, ::-1], "reversed"),
    ("w1", "transposed order", lambda g, p: g.T.reshape(g.shape), "transposed"),
    ("w1", "absolute", lambda g, p: abs(g), "absolute value"),
    ("w1", "one element 1 %", plant((3, 2), 1.01), None),
    ("b2", "one element 1 %", plant((1,), 1.01), None),
    ("w2", "one element sign", plant((4, 3), -1.0), None),
    ("w1", "one row", plant((2,), 1.5), None),
    ("b1", "constant added", lambda g, p: g + 1e-3, None),
    ("w1", "NaN", plant((0, 0), float("nan")), "not finite"),
    ("w2", "infinite", plant((0, 1), float("inf")), "not finite"),
):  # fmt: skip
    wrong(f"{leaf} {how}", network_loss, W, X, candidate=damaged(**{leaf: change}), cause=cause)
for dtype in (F32, F16, BF16):
    wrong(
        f"network sign {dtype.__name__}",
        network_loss,
        cast(W, dtype),
        cast(X, dtype),
        candidate=damaged(w1=lambda g, p: -g),
        cause="the sign is wrong",
    )
wrong(
    "network 1 % float32", network_loss, cast(W, F32), cast(X, F32), candidate=damaged(w1=plant((1, 1), 1.01))
)
wrong("whole batch softmax", network_loss, W, X, cause="", candidate=lambda p, x: jax.grad(
    lambda p: -jnp.sum(one_hot(12, x.dtype) * jnp.log(
        jax.nn.softmax(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], axis=None)))
    / 12)(p))  # fmt: skip
wrong("float32 inside", network_loss, W, X, cause="float32 precision",
      candidate=lambda p, x: cast(jax.tree.map(np.asarray, by_hand(cast(p, F32), cast(x, F32))), jnp.float64)
      if jnp.zeros(()).dtype == jnp.float64 else damaged(w1=lambda g, q: -g)(p, x))  # fmt: skip

# Arrangements of matrices.
A, B = normal(5, 5), normal(5, 5)


def bilinear(m: Any) -> Any:
    return jnp.sum(m @ A @ m.T * B)


def bilinear_grad(m: Any) -> Any:
    return B @ m @ A.T + B.T @ m @ A


M = normal(5, 5)
right("bilinear", bilinear, M, candidate=bilinear_grad)
right("bilinear float32", bilinear, cast(M, F32), candidate=bilinear_grad)
wrong("bilinear transposed", bilinear, M, candidate=lambda m: bilinear_grad(m).T, cause="transposed")
wrong("bilinear half of it", bilinear, M, candidate=lambda m: B @ m @ A.T)


def two(p: Any) -> Any:
    return jnp.sum(jnp.sin(p[0]) * jnp.cos(p[1]))


PAIR = (normal(4), normal(4))
right(
    "two leaves",
    two,
    PAIR,
    candidate=lambda p: (jnp.cos(p[0]) * jnp.cos(p[1]), -jnp.sin(p[0]) * jnp.sin(p[1])),
)
wrong(
    "two leaves swapped",
    two,
    PAIR,
    cause="swapped",
    candidate=lambda p: (-jnp.sin(p[0]) * jnp.sin(p[1]), jnp.cos(p[0]) * jnp.cos(p[1])),
)

# Scales.


def quartic(x: Any) -> Any:
    return jnp.sum(x**4)


def quartic_grad(x: Any) -> Any:
    return 4 * x**3


for scale in (1e-8, 1e8):
    right(f"inputs of {scale:g}", quartic, scale * normal(5), candidate=quartic_grad)
    wrong(
        f"inputs of {scale:g}, 1 %",
        quartic,
        scale * normal(5),
        candidate=lambda x: 1.01 * 4 * x**3,
        cause="a constant factor",
    )
for scale in (1e-9, 1e9):
    right(
        f"values of {scale:g}",
        lambda x, s=scale: s * jnp.sum(jnp.sin(x)),
        normal(5),
        candidate=lambda x, s=scale: s * jnp.cos(x),
    )
    wrong(
        f"values of {scale:g}, wrong",
        lambda x, s=scale: s * jnp.sum(jnp.sin(x)),
        normal(5),
        candidate=lambda x, s=scale: s * jnp.cos(x) ** 2,
    )


def mixed(p: Any) -> Any:
    return jnp.sum(jnp.sin(p["a"])) + 1e-7 * jnp.sum(jnp.cos(p["b"]))


AB = {"a": normal(4), "b": normal(4)}
right("a leaf of 1e-7", mixed, AB, candidate=lambda p: {"a": jnp.cos(p["a"]), "b": -1e-7 * jnp.sin(p["b"])})
wrong(
    "a leaf of 1e-7, zero",
    mixed,
    AB,
    candidate=lambda p: {"a": jnp.cos(p["a"]), "b": 0 * p["b"]},
    cause="is zero",
)
wrong(
    "a leaf of 1e-7, sign",
    mixed,
    AB,
    candidate=lambda p: {"a": jnp.cos(p["a"]), "b": 1e-7 * jnp.sin(p["b"])},
    cause="the sign is wrong",
)
right("offset of 1e6", lambda x: 1e6 + jnp.sum(jnp.sin(x)), normal(5), candidate=jnp.cos)
right("offset of 1e6 float32", lambda x: 1e6 + jnp.sum(jnp.sin(x)), cast(normal(5), F32), candidate=jnp.cos)
wrong(
    "offset of 1e6, 1 %",
    lambda x: 1e6 + jnp.sum(jnp.sin(x)),
    normal(5),
    candidate=lambda x: 1.01 * jnp.cos(x),
    cause="a constant factor",
)
right("sin at 1e6", lambda x: jnp.sum(jnp.sin(x)), 1e6 * normal(5), candidate=jnp.cos)
right(
    "fast oscillation",
    lambda x: jnp.sum(jnp.sin(1e4 * x)),
    normal(5),
    candidate=lambda x: 1e4 * jnp.cos(1e4 * x),
)
right(
    "narrow peak",
    lambda x: jnp.exp(-((1e3 * (x - 1)) ** 2)),
    np.array(1.0005),
    candidate=lambda x: -2e6 * (x - 1) * jnp.exp(-((1e3 * (x - 1)) ** 2)),
)
right(
    "wide range in one leaf",
    lambda x: jnp.sum(jnp.log(x)),
    np.array([1e-6, 1.0, 1e6]),
    candidate=lambda x: 1 / x,
)
wrong(
    "wide range in one leaf, one wrong",
    lambda x: jnp.sum(jnp.log(x)),
    np.array([1e-6, 1.0, 1e6]),
    candidate=lambda x: 1 / x * np.array([1, 1.02, 1]),
)

# Where there is nothing to see.
right(
    "unused leaf",
    lambda p: jnp.sum(p["a"] ** 2) + 3,
    AB,
    candidate=lambda p: {"a": 2 * p["a"], "b": 0 * p["b"]},
)
wrong(
    "unused leaf, not zero",
    lambda p: jnp.sum(p["a"] ** 2) + 3,
    AB,
    candidate=lambda p: {"a": 2 * p["a"], "b": 1e-3 * p["b"]},
)
right("stationary point", lambda x: jnp.sum((x - 1) ** 2), np.ones(4), candidate=lambda x: 2 * (x - 1))
right(
    "stationary point float32",
    lambda x: jnp.sum((x - 1) ** 2) + 5,
    np.ones(4, np.float32),
    candidate=lambda x: 2 * (x - 1),
)
wrong(
    "stationary point, not zero", lambda x: jnp.sum((x - 1) ** 2), np.ones(4), candidate=lambda x: 2 * x - 1.9
)
right("constant", lambda x: 7.0 + 0 * jnp.sum(x), normal(3), candidate=lambda x: 0 * x)
right(
    "saturated sigmoid",
    lambda x: jnp.sum(jax.nn.sigmoid(x)),
    np.array([-30.0, 0.5, 30.0]),
    candidate=lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x),
)

# Kinks.
right("relu network", lambda w: jnp.sum(jax.nn.relu(X @ w) ** 1.5), W["w1"])
right("abs beside its kink", lambda x: jnp.sum(jnp.abs(x)), np.array([1e-5, -0.3, 2.0]), candidate=jnp.sign)
right("abs at its kink", lambda x: jnp.sum(jnp.abs(x)), np.array([0.0, -0.3, 2.0]))
right(
    "relu at its kink, from the right",
    lambda x: jnp.sum(jax.nn.relu(x)),
    np.array([0.0, -1.0, 1.0]),
    candidate=lambda x: (x >= 0).astype(x.dtype),
)
wrong(
    "relu at its kink, outside",
    lambda x: jnp.sum(jax.nn.relu(x)),
    np.array([0.0, -1.0, 1.0]),
    candidate=lambda x: jnp.array([1.2, 0, 1], x.dtype),
)
right("max with a tie", jnp.max, np.array([1.0, 1.0, 0.5]))
right(
    "huber",
    lambda x: jnp.sum(jnp.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5)),
    normal(6),
    candidate=lambda x: jnp.clip(x, -1, 1),
)
wrong(
    "huber unclipped",
    lambda x: jnp.sum(jnp.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5)),
    2 * normal(6),
    candidate=lambda x: x,
)
wrong("norm at zero", lambda x: jnp.sqrt(jnp.sum(x**2)), np.zeros(3), cause="not finite")
wrong(
    "where with a hidden NaN",
    lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, x)), 0.0)),
    np.array([-1.0, 2.0]),
    cause="not finite",
)

# Autodiff itself.
right("custom_vjp", lambda x: jnp.sum(with_vjp(jnp.sin, lambda x, g: (g * jnp.cos(x),))(x)), normal(4))
wrong(
    "custom_vjp sign",
    lambda x: jnp.sum(with_vjp(jnp.sin, lambda x, g: (-g * jnp.cos(x),))(x)),
    normal(4),
    cause="the sign is wrong",
)
wrong(
    "custom_vjp forgets g",
    lambda x: 3 * jnp.sum(with_vjp(jnp.sin, lambda x, g: (jnp.cos(x),))(x)),
    normal(4),
    cause="a constant factor",
)
wrong("custom_vjp float32", lambda x: jnp.sum(with_vjp(jnp.exp, lambda x, g: (g,))(x)), cast(normal(4), F32))
wrong(
    "stop_gradient", lambda p: jnp.sum(jnp.sin(p["a"]) * jax.lax.stop_gradient(p["b"])), AB, cause="is zero"
)
wrong("straight-through round", lambda x: jnp.sum(x + jax.lax.stop_gradient(jnp.round(x) - x)), normal(4) * 3)
right("round", lambda x: jnp.sum(jnp.round(x)) + 2, normal(4) * 3)


@jax.custom_jvp
def softplus(x: Any) -> Any:
    return jnp.logaddexp(x, 0)


softplus.defjvp(lambda p, t: (softplus(p[0]), jax.nn.sigmoid(p[0]) * t[0]))
wrong_softplus = jax.custom_jvp(lambda x: jnp.logaddexp(x, 0))
wrong_softplus.defjvp(lambda p, t: (wrong_softplus(p[0]), jax.nn.sigmoid(2 * p[0]) * t[0]))
right("custom_jvp", lambda x: jnp.sum(softplus(x)), normal(4))
wrong("custom_jvp", lambda x: jnp.sum(wrong_softplus(x)), normal(4))
right(
    "while loop",
    lambda x: jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1],
    np.array(0.7),
)
right("scan", lambda x: jax.lax.scan(lambda c, _: (jnp.cos(c) * x, None), x, length=5)[0].sum(), normal(3))
right("cholesky", lambda m: jnp.sum(jnp.linalg.cholesky(m @ m.T + 5 * jnp.eye(4)) ** 3), normal(4, 4))
right("conv", lambda w: jnp.sum(jnp.convolve(jnp.asarray(X[:, 0]), w) ** 3), normal(4))
right(
    "sum of many, float32",
    lambda x: jnp.mean(jnp.sin(x) * x),
    cast(normal(2000), F32),
    candidate=lambda x: (jnp.cos(x) * x + jnp.sin(x)) / x.size,
)
wrong(
    "sum of many, one element",
    lambda x: jnp.mean(jnp.sin(x) * x),
    normal(2000),
    candidate=lambda x: ((jnp.cos(x) * x + jnp.sin(x)) / x.size).at[1234].multiply(1.01),
)
right("float32 inside f", lambda x: jnp.sum(jnp.sin(x.astype(F32)) * 2), normal(20))
right("python control flow", lambda x: x**2 if x > 0 else -x, np.array(1.5))
right(
    "logsumexp of large",
    lambda x: jax.nn.logsumexp(x),
    np.array([1e3, 1e3 + 1, -1e3]),
    candidate=jax.nn.softmax,
)
right("division", lambda x: jnp.sum(1 / (1 + x**2)), normal(6), candidate=lambda x: -2 * x / (1 + x**2) ** 2)
wrong(
    "division, square forgotten",
    lambda x: jnp.sum(1 / (1 + x**2)),
    normal(6),
    candidate=lambda x: -2 * x / (1 + x**2),
)

# More than one value.
right("elementwise", jnp.tanh, normal(5), candidate=lambda x: 1 - jnp.tanh(x) ** 2)
wrong("elementwise", jnp.tanh, normal(5), candidate=lambda x: 1 - jnp.tanh(x))
right("jacobian", lambda x: A @ jnp.sin(x), normal(5), candidate=lambda x: A * jnp.cos(x))
wrong("jacobian transposed", lambda x: A @ jnp.sin(x), normal(5), candidate=lambda x: (A * jnp.cos(x)).T)
right("pytree of values", lambda x: {"a": jnp.sin(x), "b": jnp.sum(x**3)}, normal(4))
wrong("pytree of values", lambda x: {"a": jnp.sin(x), "b": jnp.sum(jax.lax.stop_gradient(x) ** 3)}, normal(4))
