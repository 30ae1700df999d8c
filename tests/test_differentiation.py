import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet
from jaxnet import network


def test_every_leaf_of_a_pytree_in_its_own_type():
    params = {"a": jnp.array([1.0, 2.0]), "b": (np.array([[3.0]]), 4.0), "c": np.float32(5)}

    def f(p):
        return jnp.sum(p["a"] ** 2) * p["b"][1] + jnp.sum(p["b"][0]) * p["c"]

    gradient = jaxnet.numerical_gradient(f, params)
    np.testing.assert_allclose(gradient["a"], [8, 16], rtol=1e-6)
    np.testing.assert_allclose(gradient["b"][0], [[5]], rtol=1e-9)
    np.testing.assert_allclose(gradient["b"][1], 5, rtol=1e-9)
    assert isinstance(gradient["a"], jax.Array) and gradient["a"].dtype == jnp.float32
    assert isinstance(gradient["b"][0], np.ndarray) and gradient["b"][0].dtype == np.float64
    assert type(gradient["b"][1]) is float
    assert gradient["c"].dtype == np.float32


def test_float64_by_context_only():
    x = np.linspace(-1, 1, 7)
    gradient = jaxnet.numerical_gradient(lambda v: jnp.sum(jnp.sin(v)), x)
    np.testing.assert_allclose(gradient, np.cos(x), rtol=0, atol=1e-8)
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32


def test_many_elements_in_several_chunks(monkeypatch):
    monkeypatch.setattr("jaxnet.gradcheck.evaluate.CHUNK_BYTES", 10_000)  # a few elements at a time, of 100
    x = np.linspace(0, 3, 100)
    np.testing.assert_allclose(jaxnet.numerical_gradient(lambda v: jnp.sum(v**3), x), 3 * x**2, atol=1e-7)


def test_the_point_stays_as_it_is():
    x = np.array([1.0, 2.0])
    jaxnet.numerical_gradient(lambda v: jnp.sum(v), x)
    first = jaxnet.gradient_descent(lambda v: jnp.sum(v**2), x, lr=0.1, step_num=3)
    second = jaxnet.gradient_descent(lambda v: jnp.sum(v**2), x, lr=0.1, step_num=3)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, [1, 2])
    np.testing.assert_array_equal(jaxnet.gradient_descent(lambda v: jnp.sum(v**2), x, step_num=0), x)


def test_a_parameter_is_an_argument_unlike_the_source_demonstration():
    params = network.init(jax.random.key(0), (2, 3), weight_std=1, bias=False)
    x, t = np.array([0.6, 0.9]), 2
    numerical = jaxnet.numerical_gradient(lambda p: network.loss(p, x, t), params)
    np.testing.assert_allclose(numerical[0].weight, network.backprop(params, x, t)[0].weight, atol=1e-6)


def test_functions_that_jax_cannot_trace_have_a_derivative_too():
    assert jaxnet.numerical_diff(math.sin, 1.0) == pytest.approx(math.cos(1), abs=1e-8)
    assert jaxnet.tangent_line(math.exp, 0.0)(0.0) == pytest.approx(1)


def test_derivative_elementwise_and_of_float32():
    x = jnp.array([0.5, 1.0])
    slope = jaxnet.numerical_diff(jnp.sin, x)
    assert slope.dtype == jnp.float32
    np.testing.assert_allclose(slope, np.cos([0.5, 1.0]), rtol=1e-7)
    np.testing.assert_allclose(jaxnet.tangent_line(jnp.sin, x)(x), np.sin([0.5, 1.0]), rtol=1e-6)


def square(x):
    return jnp.sum(jnp.asarray(x) ** 2)


NAN = np.array([1.0, np.nan])


def test_a_function_that_drops_to_float32_is_refused():
    with pytest.raises(TypeError, match=r"f must keep the float64 it is given.*it returns float32"):
        jaxnet.numerical_gradient(lambda v: jnp.sum(v).astype(jnp.float32), np.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: jaxnet.numerical_gradient(square, np.array([3, 4])),
            TypeError,
            "params must be floating-point, got int",
        ),
        (
            lambda: jaxnet.numerical_gradient(square, jnp.array([3, 4])),
            TypeError,
            "a small step would be truncated",
        ),
        (
            lambda: jaxnet.numerical_gradient(lambda p: 1.0, {"w": [np.ones(2, bool)]}),
            TypeError,
            r"params\['w'\]\[0\]",
        ),
        (lambda: jaxnet.numerical_gradient(square, np.ones(2, complex)), TypeError, "got complex128"),
        (
            lambda: jaxnet.numerical_gradient(square, "text"),
            TypeError,
            "a real number or a floating-point array, got str",
        ),
        (lambda: jaxnet.numerical_gradient(square, NAN), ValueError, "params holds NaN or infinity"),
        (lambda: jaxnet.numerical_gradient(lambda p: 1.0, ()), ValueError, "at least one number, got none"),
        (lambda: jaxnet.numerical_gradient(square, np.zeros(0)), ValueError, "at least one number, got none"),
        (
            lambda: jaxnet.numerical_gradient(lambda v: v, np.ones(3)),
            TypeError,
            r"real scalar, got float64 of shape \[3\]",
        ),
        (
            lambda: jaxnet.numerical_gradient(lambda v: None, np.ones(3)),
            TypeError,
            "real scalar, got NoneType",
        ),
        (lambda: jaxnet.numerical_gradient(lambda v: 1j * v[0], np.ones(3)), TypeError, "got complex128"),
        (
            lambda: jaxnet.numerical_gradient(square, np.ones(3), h=0),
            ValueError,
            "h must be positive and finite, got 0",
        ),
        (
            lambda: jaxnet.numerical_diff(square, np.array([1])),
            TypeError,
            "x must be floating-point, got int64",
        ),
        (lambda: jaxnet.numerical_diff(square, True), TypeError, "got bool"),
        (lambda: jaxnet.numerical_diff(square, float("inf")), ValueError, "x must be finite, got inf"),
        (lambda: jaxnet.numerical_diff(square, 1.0, h=-1), ValueError, "h must be positive"),
        (lambda: jaxnet.tangent_line(square, np.array([1])), TypeError, "x must be floating-point"),
        (lambda: jaxnet.gradient_descent(square, np.array([1])), TypeError, "params must be floating-point"),
        (lambda: jaxnet.gradient_descent(square, np.ones(2), lr=-0.1), ValueError, "lr must be positive"),
        (lambda: jaxnet.gradient_descent(square, np.ones(2), step_num=-1), ValueError, "0 or more, got -1"),
        (lambda: jaxnet.gradient_descent(square, np.ones(2), step_num=1.5), ValueError, "0 or more, got 1.5"),
    ],
)
def test_bad_input(unchecked, call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_richardson_is_within_its_error_bar(scale, rng):
    x = scale * rng.standard_normal(40)
    for f, exact in (
        (lambda x: jnp.sum(jnp.sin(x / scale)), np.cos(x / scale) / scale),
        (lambda x: 1e6 + jnp.sum(jnp.exp(x / scale)), np.exp(x / scale) / scale),
        (lambda x: jnp.sum(jnp.sin((x / scale).astype(jnp.float32))), np.cos(x / scale) / scale),
    ):
        estimate, error = jaxnet.richardson_gradient(f, x)
        assert (abs(estimate - exact) <= 3 * error).all()
        assert error.max() < 0.02 * abs(exact).max()


def test_richardson_where_f_is_finite_on_one_side_alone():
    estimate, error = jaxnet.richardson_gradient(
        lambda p: jnp.sqrt(p["x"]).sum(), {"x": np.array([0.0, 4.0])}
    )
    assert np.isinf(error["x"][0]) and abs(estimate["x"][1] - 0.25) <= error["x"][1]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
@settings(max_examples=10, deadline=None)
def test_complex_step_is_exact_to_rounding(values):
    x = np.array(values)
    found = jaxnet.complex_step_gradient(lambda x: jnp.sum(jnp.exp(x) * jnp.sin(x)), x)
    np.testing.assert_allclose(found, np.exp(x) * (np.sin(x) + np.cos(x)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x: jnp.sum(jax.scipy.special.gammaln(x)), TypeError, "a real-only operation"),
        (lambda x: jnp.sum(jnp.sqrt(x - 1.5)), ValueError, "must be analytic .* but for element"),
    ],
    ids=["gammaln", "the end of a root"],
)
def test_complex_step_refuses_what_is_not_analytic(f, error, message):
    with pytest.raises(error, match=message):
        jaxnet.complex_step_gradient(f, np.array([1.5, 2.5]))
