"""The oracle for error bars, against JAX, exact fractions and wide differences."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truths import LABELS, TRUTHS, WILKINSON

SUBNORMAL = 2.3e-308  # XLA takes what is smaller for 0


def saturated(x, steepness):
    """Return the derivative of 1 / (1 + exp(-steepness x)), where JAX's p (1 - p) cancels or is 0."""
    decay = np.exp(-np.abs(steepness * x))
    return steepness * decay / (1 + decay) ** 2


def one_minus_cosine(x):
    half = x / 2
    return 2 * np.sin(half) * (2 * half * np.cos(half) - 2 * np.sin(half)) / x**3


def expanded(coefficients):
    """Return the derivative of a polynomial in exact fractions."""
    terms = [Fraction(c) * k for c, k in zip(coefficients, range(len(coefficients) - 1, 0, -1), strict=False)]

    def slope(v):
        total = Fraction(0)
        for term in terms:
            total = total * Fraction(v) + term
        return float(total)

    return lambda x: np.array([slope(v) for v in x.tolist()])


def cross_entropy(x):
    powers = np.exp(x.reshape(20, 10) - x.reshape(20, 10).max(1, keepdims=True))
    gradient = powers / powers.sum(1, keepdims=True) / 20
    gradient[np.arange(20), LABELS] = 0
    gradient[np.arange(20), LABELS] = -gradient.sum(1)
    return gradient.ravel()


# Where JAX's own gradient loses its digits, the gradient by a formula that does not.
ILL_CONDITIONED = {
    "root minus x": lambda x: -1 / (np.hypot(x, 1) * (np.hypot(x, 1) + x)),  # x / root - 1 cancels
    "1 - cos over square": one_minus_cosine,  # so do two terms of 1e4
    "7th power, expanded": expanded((1, -7, 21, -35, 35, -21, 7, -1)),
    "Wilkinson, expanded": expanded(WILKINSON),
    "sigmoid": lambda x: saturated(x, 1.0),
    "tanh": lambda x: 2 * saturated(x, 2.0),  # 1 - tanh^2 cancels
    "narrow step": lambda x: 2 * saturated(x, 2e6),
    "log cosh": np.tanh,  # the difference of two softmaxes cancels
    "cross entropy": cross_entropy,  # p - 1 cancels
    "softsign at the edges": lambda x: (1 / (1 + np.abs(x))) ** 2,  # 1 / (1 + x) - x / (1 + x)^2 cancels
}
NO_REVERSE_MODE = {"Newton's method to the end"}  # a while_loop


def value_and_gradient(truth):
    """Return f and its gradient, by something other than mpmath, as one function."""
    if truth.name in ILL_CONDITIONED:
        f = jax.jit(truth.f)
        return lambda x: (f(x), ILL_CONDITIONED[truth.name](x))
    if truth.name in NO_REVERSE_MODE:
        return jax.jit(lambda x: (truth.f(x), jax.jacfwd(truth.f)(x)))
    return jax.jit(jax.value_and_grad(truth.f))


def slopes(truth, x):
    derivative = truth.derivative(x)
    return (derivative, derivative) if truth.low is None else (truth.low(x), truth.high(x))


def off_by(truth, gradient, x):
    """Return by how much a gradient is outside the slopes of both sides, beyond 1e-6 of them."""
    low, high = slopes(truth, x)
    distance = np.maximum(np.maximum(low - gradient, gradient - high), 0)
    return distance - 1e-6 * np.maximum(np.abs(low), np.abs(high)) - SUBNORMAL


def test_there_are_many_functions_of_many_kinds():
    assert len(TRUTHS) >= 170 and len({truth.name for truth in TRUTHS}) == len(TRUTHS)
    assert sum(x.size for truth in TRUTHS if not truth.noisy for x in truth.points) >= 18_000
    kinks = [np.subtract(*slopes(t, x)[::-1]) for t in TRUTHS if t.low for x in t.points]
    assert sum(np.count_nonzero(jump) for jump in kinks) >= 100 and all((jump >= 0).all() for jump in kinks)
    derivatives = np.concatenate([np.abs(truth.derivative(x)) for truth in TRUTHS for x in truth.points])
    assert all(np.count_nonzero(d) > 100 for d in (derivatives < 1e-12, derivatives == 0, derivatives > 1e12))


SMOOTH = [t for t in TRUTHS if not t.noisy]


@pytest.mark.sampled(42)
@pytest.mark.parametrize("truth", SMOOTH, ids=[truth.name for truth in SMOOTH])
def test_the_derivative_is_that_of_the_function(truth, x64):
    both = value_and_gradient(truth)
    for x in truth.points:
        assert x.dtype == truth.derivative(x).dtype == np.float64 and x.shape == truth.derivative(x).shape
        value, gradient = both(x)
        assert value.shape == () and value.dtype == np.float64 and jnp.isfinite(value)
        assert (off_by(truth, np.asarray(gradient), x) <= 0).all()


@pytest.mark.parametrize("name", ILL_CONDITIONED)
def test_the_exceptions_are_exceptions(name, x64):
    (truth,) = (truth for truth in TRUTHS if truth.name == name)
    gradient = jax.jit(jax.grad(truth.f))
    assert any((off_by(truth, np.asarray(gradient(x)), x) > 0).any() for x in truth.points)


@pytest.mark.parametrize("truth", [t for t in TRUTHS if t.noisy], ids=lambda truth: truth.name)
def test_the_derivative_under_noise_is_what_wide_differences_see(truth, x64):
    for x in truth.points:
        step = np.eye(x.size) * 0.03 * np.abs(x).max()
        f = jax.jit(jax.vmap(truth.f))
        difference = (f(x + step) - f(x - step)) / (2 * step.max())
        derivative = truth.derivative(x)
        assert difference.dtype == np.float64
        assert np.abs(difference - derivative).max() < 0.05 * np.abs(derivative).max()


def test_polynomials_are_right_to_the_last_bit():
    truths = {truth.name: truth for truth in TRUTHS}
    (near_one,) = truths["7th power, expanded"].points
    exact = [float(7 * (Fraction(v) - 1) ** 6) for v in near_one.tolist()]
    assert truths["7th power, expanded"].derivative(near_one).tolist() == exact
    (x,) = truths["Wilkinson, expanded"].points
    assert truths["Wilkinson, expanded"].derivative(x).tolist() == expanded(WILKINSON)(x).tolist()


def test_a_derivative_is_computed_once_and_never_shared():
    truth = TRUTHS[0]
    (x,) = truth.points
    truth.derivative(x)[:] = 0
    assert truth.derivative(x).any()
