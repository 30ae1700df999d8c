"""One element replaced, and only what follows computed again: the numbers of the whole function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet.gradcheck.evaluate import Target
from jaxnet.gradcheck.perturb import replaced

A = np.random.default_rng(1).normal(size=(6, 5))
LABELS = np.array([0, 1, 1, 0, 1, 0])


def mlp(p):
    scores = jax.nn.log_softmax(jnp.tanh(A @ p["w"] + p["b"]) @ p["u"])
    return scores[jnp.arange(6), LABELS].mean()


def pieces(x):
    return sum(jnp.sum(a * b) for a, b in zip(jnp.split(x, 3), jnp.split(jnp.cos(x), 3)[::-1], strict=True))


def recurrence(x):
    return jax.lax.scan(lambda c, a: (jnp.sin(c) + a, c * a), x[0], x)[1].sum()


FUNCTIONS = {
    "elementwise": (lambda v: jnp.mean(jnp.tanh(v) * v**2), (12,)),
    "two layers": (mlp, {"w": (5, 4), "b": (4,), "u": (4, 2)}),
    "gram": (lambda x: jnp.sum(jnp.sin(x @ x.T)), (4, 3)),
    "gram of columns": (lambda x: jnp.sum(jnp.sin(x.T @ x)), (4, 3)),
    "square": (lambda x: jnp.sum((x @ x) ** 3), (4, 4)),
    "quadratic": (lambda x: x @ (A[:5, :5] @ x), (5,)),
    "rosenbrock": (lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2), (7,)),
    "roll": (lambda x: jnp.sum(jnp.roll(x, 2) * x * x), (7,)),
    "stack": (lambda x: jnp.prod(jnp.stack([x.sum(), x[0], jnp.sin(x[1])])), (7,)),
    "reshapes": (lambda x: jnp.sum(jnp.sin(x.reshape(3, 4).T.reshape(2, 6)[:, ::2])), (12,)),
    "reversed": (lambda x: jnp.sum(x[::-1] * jnp.arange(6.0) * x), (6,)),
    "cumsum": (lambda x: jnp.sum(jnp.cumsum(x.reshape(2, 3), 1) ** 2), (6,)),
    "sort": (lambda x: jnp.sum(jnp.sort(x) * jnp.arange(6.0)), (6,)),
    "extrema": (lambda x: jnp.max(x.reshape(2, 3), 1).sum() + jnp.min(x), (6,)),
    "logsumexp": (jax.nn.logsumexp, (6,)),
    "norm": (jnp.linalg.norm, (6,)),
    "relu": (lambda x: jax.nn.relu(x).sum() * x[0], (6,)),
    "convolution": (lambda x: jnp.sum(jnp.convolve(x, jnp.ones(3)) ** 2), (6,)),
    "gather": (lambda x: jnp.sum(x[jnp.array([0, 3, 3, 1])] ** 2), (6,)),
    "batched product": (
        lambda x: jnp.sum(jnp.einsum("bij,bjk->bik", x, jnp.sin(x).transpose(0, 2, 1))),
        (2, 3, 4),
    ),
    "einsum": (lambda x: jnp.sum(jnp.einsum("bij,jbk->ikb", x, jnp.ones((4, 2, 3))) ** 2), (2, 3, 4)),
    "batch with itself": (lambda x: jnp.sum(jnp.einsum("bi,bi->b", x, x) ** 2), (3, 4)),
    "scan": (recurrence, (6,)),
    "variance": (lambda x: jnp.var(x) + jnp.std(x.reshape(2, 3), 0).sum(), (6,)),
    "a number": (lambda x: jnp.sin(x) * 2, ()),
    "broadcast": (lambda x: jnp.sum(jnp.broadcast_to(x, (4, 1, 3)) ** 2 * x), (1, 3)),
    "outer": (lambda x: jnp.sum(jnp.outer(x, x) * jnp.arange(9.0).reshape(3, 3)), (3,)),
    "split": (pieces, (6,)),
    "checkpoint": (lambda x: jax.checkpoint(lambda y: jnp.sum(jnp.sin(y) * y))(x), (6,)),
    "clip": (lambda x: jnp.clip(x, -0.5, 0.5).sum() * x.sum(), (6,)),
    "pad": (lambda x: jnp.sum(jnp.pad(x, 2, mode="edge") ** 2), (6,)),
    "determinant": (lambda x: jnp.linalg.det(x @ jnp.eye(3) + 2 * jnp.eye(3)), (3, 3)),
    "constant": (lambda _: jnp.float64(3.0), (3,)),
    "where": (lambda x: jnp.sum(jnp.where(x > 0, x**2, -x)), (6,)),
}
LIMIT = np.array([2**30, 0], np.int32)  # of trips of a while loop


def case(f, shapes, seed=0):
    rng = np.random.default_rng(seed)
    point = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape)), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    leaves, tree = jax.tree.flatten(point)

    def flat(*args):
        return f(jax.tree.unflatten(tree, args))

    return jax.jit(flat), leaves, jax.make_jaxpr(flat)(*leaves)


def many(jaxpr, number, leaves, new, sharp=True):
    one = replaced(jaxpr, number, sharp)
    program = jax.jit(jax.vmap(lambda index, value: one(index, value, LIMIT, jaxpr.consts, leaves)))
    return program(jnp.arange(leaves[number].size), new)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replaced_element_gives_what_the_whole_function_gives(name, x64):
    f, leaves, jaxpr = case(*FUNCTIONS[name])
    for number, leaf in enumerate(leaves):
        new = jnp.asarray(np.random.default_rng(2).normal(size=leaf.size))
        whole = [
            f(
                *(
                    leaf.ravel().at[i].set(new[i]).reshape(leaf.shape) if j == number else a
                    for j, a in enumerate(leaves)
                )
            )
            for i in range(leaf.size)
        ]
        found = many(jaxpr, number, leaves, new)
        assert found.change.shape == (leaf.size,)
        plain = many(jaxpr, number, leaves, new, sharp=False)
        np.testing.assert_allclose(plain.value, found.value, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(plain.crossed, found.crossed)
        whole = np.array(whole)
        change = whole - f(*leaves)
        rounding = 1e-13 * (1 + np.abs(whole))
        assert (np.abs(found.change - change) <= found.error + rounding).all()
        # The decisions of these functions are few: a value as far off as this has mostly crossed one.
        assert found.crossed.dtype == bool


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_complex_step_through_it_is_the_derivative(name, x64):
    f, leaves, jaxpr = case(*FUNCTIONS[name])
    for number, leaf in enumerate(leaves):
        slope = jax.grad(f, argnums=number)(*leaves).ravel()
        for sharp in (True, False):
            found = many(jaxpr, number, leaves, leaf.ravel() + 1e-20j, sharp)
            np.testing.assert_allclose(np.imag(found.change) / 1e-20, slope, rtol=1e-10, atol=1e-12)


@settings(max_examples=3, deadline=None)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), hidden=st.integers(1, 4), seed=st.integers(0, 2**16)
)
def test_any_size_also_one(rows, columns, hidden, seed):
    with jax.enable_x64(True):
        x = np.random.default_rng(seed).normal(size=(rows, columns))
        f, leaves, jaxpr = case(
            lambda p: jax.nn.softmax(jnp.sin(x @ p["w"] + p["b"]).T @ x)[0].max() + p["b"][0],
            {"w": (columns, hidden), "b": (hidden,)},
            seed,
        )
        for number, leaf in enumerate(leaves):
            found = many(jaxpr, number, leaves, leaf.ravel() + 0.5)
            for i in range(leaf.size):
                moved = leaf.ravel().at[i].add(0.5).reshape(leaf.shape)
                whole = f(*(moved if j == number else a for j, a in enumerate(leaves)))
                change = found.change[i] - (whole - f(*leaves))
                assert abs(change) <= found.error[i] + 1e-13 * (1 + abs(whole))


def test_only_what_follows_from_the_element_is_computed_again(x64):
    x = np.random.default_rng(0).normal(size=(100, 50))
    _, leaves, jaxpr = case(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2), (50, 40))
    one = replaced(jaxpr, 0, True)

    def value(index, new, *leaves):
        return one(index, new, LIMIT, jaxpr.consts, leaves)

    def shapes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (var.aval.shape for var in eqn.outvars)
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    yield from shapes(inner.jaxpr)

    n = 7
    batch = jax.make_jaxpr(jax.vmap(value, (0, 0, None)))(jnp.arange(n), jnp.ones(n), *leaves)
    batched = [shape for shape in shapes(batch.jaxpr) if shape[:1] == (n,)]
    assert batched and max(np.prod(shape) for shape in batched) == n * 100  # one column each, not [100, 40]


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda x: 1e9 * jnp.cos(x[0]) + 1e-9 * x[1] ** 2, lambda x: 2e-9 * x[1]),
        (
            lambda x: jax.nn.logsumexp(jnp.stack([30 * x[0], x[1]])),
            lambda x: 1 / (1 + np.exp(30 * x[0] - x[1])),
        ),
        (lambda x: jnp.sort(jnp.stack([x[1], 1e12 * x[0]])) @ jnp.array([3.0, 1.0]), lambda x: 3.0),
        (lambda x: jnp.max(x) * 1e10 + jnp.sum(jnp.stack([x[1] / 1e8, x[0]])), lambda x: 1e-8),
    ],
)
def test_a_change_is_known_to_its_digits_beside_what_is_far_larger(f, slope, x64):
    x = np.array([0.9, 0.5])
    target = Target([x], jaxpr=jax.make_jaxpr(f)(x)).sharpened()
    h = 2.0**-20
    found = target.elements(np.array([1]), np.array([[0.5 + h, 0.5 - h]]))
    central = (found.change[0, 0] - found.change[0, 1]) / (2 * h)
    assert abs(central - slope(x)) <= 1e-9 * abs(slope(x))
    plain = found.value[0, 0] - found.value[0, 1]  # which is lost in rounding
    assert abs(plain / (2 * h) - slope(x)) > 1e-6 * abs(slope(x))


def test_a_loop_that_does_not_end_is_left_and_a_decision_that_changes_is_seen(x64):
    def f(x):
        return jax.lax.while_loop(lambda c: c[1] > 1e-3, lambda c: (c[0] + x[0], c[1] * x[1]), (0.0, 1.0))[0]

    x = np.array([1.0, 0.5])
    target = Target([x], jaxpr=jax.make_jaxpr(f)(x))
    found = target.elements(np.array([1, 1, 1]), np.array([[0.5001], [0.7], [1.0]]))
    assert found.crossed[:, 0].tolist()[:2] == [False, True]
    assert found.change[0, 0] == 0 and found.change[1, 0] > 0 and np.isnan(found.change[2, 0])
