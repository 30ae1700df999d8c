import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.gradcheck import GradientError
from jaxnet.testing import InconclusiveWarning, assert_gradients

X = np.array([0.3, 1.2])


def step(x):
    return jnp.where(x > 0, 1.0, 0.0).sum() + x.sum()


def test_right_wrong_and_inconclusive():
    assert assert_gradients(lambda x: jnp.sum(x**2), X).passed
    with pytest.raises(GradientError, match="disagree with Richardson"):
        assert_gradients(lambda x: jnp.sum(x * jax.lax.stop_gradient(x)), X)
    with pytest.warns(InconclusiveWarning, match="jumps"):
        assert_gradients(step, np.zeros(2))
    with pytest.raises(GradientError, match="jumps"):
        assert_gradients(step, np.zeros(2), strict=True)
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        assert_gradients(step, X, order=3)


def test_order_two_finds_a_wrong_second_derivative():
    @jax.custom_jvp
    def cube(x):
        return x**3

    @jax.custom_jvp
    def slope(x):
        return 3 * x**2

    cube.defjvp(lambda p, t: (cube(p[0]), slope(p[0]) * t[0]))
    slope.defjvp(lambda p, t: (slope(p[0]), 5 * p[0] * t[0]))
    assert assert_gradients(lambda x: cube(x).sum(), X).passed
    with pytest.raises(GradientError, match="order 2"):
        assert_gradients(lambda x: cube(x).sum(), X, order=2)
    assert assert_gradients(lambda x: jnp.sum(jnp.sin(x) * x), X, order=2).passed


def test_several_points_and_the_worst_is_named():
    def f(x):
        return jnp.sum(jnp.abs(x) ** 1.5)

    report = assert_gradients(f, X, points=[(X + 1,), (X + 2,)])
    assert report.passed and len(report.points) == 3
