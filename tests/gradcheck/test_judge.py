"""Verdicts on plain arrays."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.gradcheck import judge
from jaxnet.gradcheck.causes import find_causes
from jaxnet.gradcheck.estimate import Estimate, Status
from jaxnet.gradcheck.report import Element, GradientReport, Leaf

EPS64, EPS32, BF16 = 2.0**-52, 2.0**-23, 2.0**-7


def estimate(value, error, *, low=None, high=None, status=Status.SMOOTH):
    value = np.atleast_1d(np.asarray(value, float))
    return Estimate(
        value=value,
        error=np.broadcast_to(np.asarray(error, float), value.shape),
        low=value if low is None else np.atleast_1d(low),
        high=value if high is None else np.atleast_1d(high),
        step=np.full(value.shape, 1e-3),
        slope=np.abs(value),
        status=np.full(value.shape, int(status)),
        jump=np.zeros(value.shape),
        confirmed=np.ones(value.shape, bool),
    )


def wrong(values, found, noise=0.0, rtol=1e-7, largest=1.0):
    shape = found.value.shape
    allowed = judge.tolerance(
        found, np.full(shape, noise), np.full(shape, rtol), np.full(shape, largest)
    ).allowed
    return judge.failed(np.atleast_1d(np.asarray(values, float)), found, allowed)


@given(
    size=st.floats(1e-12, 1e12),
    off=st.floats(-0.5, 0.5),
    bar=st.floats(0, 1e-3),
    noise=st.floats(0, 1e-3),
    rtol=st.sampled_from([1e-7, 1e-4, 1e-2]),
)
def test_a_failure_exceeds_the_bar_and_rounding_and_matters(size, off, bar, noise, rtol):
    found = estimate(size, bar * size)
    failed = wrong(size * (1 + off), found, noise * size, rtol)[0]
    apart = abs(size * (1 + off) - size)
    limit = max(bar * size + 8 * noise * size, rtol * size)
    if not np.isclose(apart, limit, rtol=1e-6, atol=0):
        assert failed == (apart > limit)


def test_an_element_is_judged_by_itself_not_by_its_leaf_s_largest():
    found = estimate([1e12, 1.0, 1.0], [1e-4, 1e-16, 1e-16])
    assert wrong([1e12, 2.0, -5.0], found, largest=1e12).tolist() == [False, True, True]


def test_one_that_is_zero_but_for_rounding_is_judged_by_its_leaf():
    found = estimate([0.0, 0.0], 1e-20)
    assert wrong([1e-9, 1e-6], found, largest=1.0).tolist() == [False, True]


def test_between_the_slopes_of_a_kink_is_right():
    found = estimate([0.0] * 4, 1e-12, low=[-1.0] * 4, high=[1.0] * 4, status=Status.KINK)
    assert wrong([-1.0, 0.3, 1.0, 1.01], found).tolist() == [False, False, False, True]


def test_nothing_is_wrong_where_there_is_no_derivative_and_not_finite_is_where_there_is_one():
    assert not wrong([5.0], estimate(1.0, np.inf))[0]
    assert not wrong([5.0], estimate(1.0, 1e-9, status=Status.JUMP))[0]
    assert wrong([np.nan], estimate(1.0, 1e-9))[0] and wrong([np.inf], estimate(1.0, 1e-9))[0]


def test_the_relative_tolerance_is_the_type_s_or_what_is_asked_for():
    epsilon = np.array([EPS64, EPS32, 2.0**-10, BF16])
    assert judge.rtol_of(epsilon, None, wide=False).tolist() == [1e-7, 1e-3, 3e-2, 1e-1]
    assert judge.rtol_of(epsilon, None, wide=True).tolist() == [1e-7, 1e-4, 5e-3, 5e-3]
    assert judge.rtol_of(epsilon[:1], 1e-3, wide=False).tolist() == [1e-3]


def test_what_is_resolved_would_show_an_error_of_two_percent():
    found = estimate([1.0, 1.0, 1e-9, 0.0], [1e-3, 0.5, 1e-8, 1e-12])
    natural = np.full(4, 1.0)
    assert judge.resolved(found, np.ones(4), natural).tolist() == [True, False, True, True]
    assert not judge.resolved(estimate(1.0, 1e-9, status=Status.JUMP), np.ones(1), natural[:1])[0]


def test_a_wide_rtol_and_what_f_is_an_approximation_by_decide_more():
    found, natural = estimate(1e-2, 2e-4), np.zeros(1)
    assert not judge.resolved(found, np.ones(1), natural)[0]
    assert not judge.resolved(found, np.ones(1), natural, 0.01)[0]
    assert judge.resolved(found, np.ones(1), natural, 0.1)[0]
    spread = np.array([1.9e-4])
    assert judge.resolved(found, np.ones(1), natural, spread=spread)[0]
    assert not judge.resolved(found, np.full(1, 1e-2), natural, spread=spread)[0]


def test_the_largest_of_a_leaf_is_of_what_is_known_to_be_there():
    found = estimate([1.0, 1e14, 2.0, 7.0], [1e-9, 1e14, 1e-9, 1e-9])
    assert judge.leaf_largest(found, np.array([0, 0, 0, 1]), 2).tolist() == [2, 2, 2, 7]


def test_the_complex_step_decides_where_it_is_sharper_and_is_denied_where_it_contradicts():
    found = estimate([1.0, 2.0], [1e-9, 3.0])
    sharper, denied = judge.by_complex_step(
        found, np.array([1.0, 2.5]), np.full(2, 1e-15), np.array([True, False])
    )
    assert (
        denied is None and sharper.value.tolist() == [1.0, 2.5] and sharper.error.tolist() == [1e-15, 1e-15]
    )
    _, denied = judge.by_complex_step(found, np.array([1.1, 2.5]), np.full(2, 1e-15), np.array([True, False]))
    assert denied == 0


def test_digits():
    found = judge.digits(np.array([1.001, 1.0, 2.0]), estimate([1.0, 1.0, 1.0], 0.0))
    np.testing.assert_allclose(found, [3.0, 16.0, 0.3], atol=0.01)


def report(values, allowed, verdict="pass"):
    worst = Element("x", values, 1e-9, verdict, [], "", allowed, 1.0, 1.0)
    leaf = Leaf("x", (), "float64", 1, verdict, [], {}, worst, None, [])
    return GradientReport(verdict, "f", "", [leaf], worst, {}, {}, [])


@given(value=st.floats(-10, 10), allowed=st.floats(0, 5))
def test_no_report_says_pass_beside_numbers_that_say_otherwise(value, allowed):
    if abs(value - 1.0) > allowed:
        with pytest.raises(AssertionError, match="contradicts itself"):
            report({"reverse": value}, {"reverse": allowed})
        assert report({"reverse": value}, {"reverse": allowed}, "fail").verdict == "fail"
    else:
        assert report({"reverse": value}, {"reverse": allowed}).passed
        with pytest.raises(AssertionError, match="contradicts itself"):
            dataclasses.replace(report({"reverse": 99.0}, {"reverse": allowed}, "fail"), verdict="pass")


RIGHT = np.array([1.0, -2.0, 3.0, 0.5])


@pytest.mark.parametrize(
    ("values", "batches", "cause"),
    [
        (-RIGHT, set(), "the sign is wrong"),
        (RIGHT * 5, {5}, "5 is the batch size"),
        (RIGHT * 3, {5}, "a constant factor"),
        (RIGHT / 5, {5}, "divided by the batch size, 5, once too often"),
        (RIGHT + 0.1 * np.array([1.0, 2.0, -1.0, 4.0]), set(), "weight decay"),
        (np.roll(RIGHT, 1), set(), "rolled by one"),
        (np.abs(RIGHT), set(), "the absolute value"),
        (0 * RIGHT, set(), "is zero"),
        (RIGHT * np.array([1, 1, np.nan, 1]), set(), "is not finite in 1 of 4 elements"),
    ],
)
def test_causes_on_plain_arrays(values, batches, cause):
    params = np.array([1.0, 2.0, -1.0, 4.0])
    found = find_causes(0, params, batches, [values], [RIGHT], [np.full(4, 1e-12)], [(4,)])
    assert any(cause in text for text in found), found
