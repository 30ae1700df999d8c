"""The error bar contains the true derivative: in all of many thousand elements."""

import functools

import jax
import numpy as np
import pytest
from truths import TRUTHS

import jaxnet
from jaxnet.gradcheck import estimate
from jaxnet.gradcheck.estimate import Ladder, Status, mismatch, richardson, scales

# Steps of these functions are their own pieces, where the derivative is 0: what `smooth` there means is
# another function. Leaves of numbers from 1e-300 to 1e300 have elements that no step of the leaf's scale is
# for.
PIECES = {"values rounded to 1e-8", "inputs rounded to 1e-7", "bisection", "ripple of 1e-9"}
KNOWN = [truth for truth in TRUTHS if truth.name not in PIECES and "at the edges" not in truth.name]


@functools.cache
def outside(name):
    """Return how many elements' true derivatives lie outside their error bars, and how many there are."""
    truth = next(truth for truth in TRUTHS if truth.name == name)
    wrong, total, wide = [], 0, 0
    for x in truth.points:
        with jax.enable_x64(True):
            found, error = jaxnet.richardson_gradient(truth.f, x)
        true = np.asarray(truth.derivative(x))
        low, high = (true, true) if truth.low is None else (truth.low(x), truth.high(x))
        low, high = np.minimum(low, high), np.maximum(low, high)
        # To the last bit of the truth itself, and to numbers that underflow.
        slack = 4e-16 * np.abs(true) + 1e-307
        bad = ~((found - error <= high + slack) & (found + error >= low - slack)) & np.isfinite(true)
        wrong += [(x[i], true[i], found[i], error[i]) for i in np.flatnonzero(bad)]
        total += x.size
        wide += int((error > 0.01 * np.abs(true) + 1e-9 * np.abs(true).max()).sum())
    return wrong, total, wide


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", [truth.name for truth in KNOWN])
def test_the_true_derivative_is_within_the_error_bar(name):
    wrong, _, _ = outside(name)
    assert not wrong, f"{len(wrong)} outside, such as x, true, estimate, error: {wrong[0]}"


def test_there_are_many_of_them():
    assert len(KNOWN) >= 60 and sum(np.size(x) for truth in KNOWN for x in truth.points) >= 10_000


class Cubic:
    """A target of three numbers, on plain arrays: their cubes, with noise of a known size."""

    def __init__(self, flat, noise=0.0):
        self.flat, self.sizes, self.noise = flat, [flat.size], noise
        self.bounds = np.full(flat.size, -np.inf), np.full(flat.size, np.inf)
        self.value = float((flat**3).sum())
        self.rng = np.random.default_rng(0)

    def elements(self, index, values):
        from jaxnet.gradcheck.evaluate import Moved

        x = self.flat[index][:, None]
        change = values**3 - x**3 + self.noise * self.rng.standard_normal(values.shape)
        return Moved(change, np.zeros(values.shape), self.value + change, np.zeros(values.shape, bool))


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
def test_noise_widens_the_error_bar_and_no_more(noise):
    flat = np.linspace(0.5, 2.0, 200)
    found = richardson(
        Cubic(flat, noise), np.arange(200), lambda found: ~found.confirmed | np.isinf(found.error)
    )
    apart = np.abs(found.value - 3 * flat**2)
    assert (apart <= found.error).all() and (found.status == Status.SMOOTH).all()
    assert found.error.max() < 1e-8 + 1e5 * noise


def test_the_ladder_is_a_value():
    flat = np.array([1.0])
    found = richardson(
        Cubic(flat), np.array([0]), lambda found: ~found.confirmed, Ladder(first=(10, 14), further=())
    )
    assert found.step[0] in (2.0**-12, 2.0**-16)


def test_scales_are_powers_of_two_of_the_element_or_of_its_leaf():
    assert scales(np.array([4.0, 0.0, 1e-3, 0.0]), [2, 2]).tolist() == [4, 4, 2.0**-10, 2.0**-10]


def test_a_mismatch_is_out_of_the_bar_or_of_the_slopes():
    one = np.array([1.0, 1.0, 0.5])
    found = estimate.Estimate(
        value=one,
        error=np.array([1e-3, 1e-3, 1e-3]),
        low=np.array([1.0, 1.0, 0.0]),
        high=np.array([1.0, 1.0, 1.0]),
        step=one,
        slope=one,
        status=np.array([0, 0, 1]),
        jump=0 * one,
        confirmed=np.ones(3, bool),
    )
    assert mismatch(found, np.array([1.0005, 1.002, 0.7])).tolist() == [False, True, False]
