import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax
from sklearn.metrics import log_loss

import jaxnet


def test_exact_loss_is_that_of_scipy_and_optax_also_for_huge_logits(rng, x64):
    logits = rng.standard_normal((50, 7)) * np.array([1.0, 100.0, 1e4, 1, 1, 1, 1e-6])
    labels = rng.integers(7, size=50)
    expected = -log_softmax(logits, axis=1)[np.arange(50), labels].mean()
    np.testing.assert_allclose(jaxnet.softmax_cross_entropy(logits, labels), expected, rtol=1e-14)
    theirs = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels)).mean()
    np.testing.assert_allclose(jaxnet.softmax_cross_entropy(logits, np.eye(7)[labels]), theirs, rtol=1e-14)


def test_gradient_from_the_logits_is_the_closed_form(rng, x64):
    logits, labels = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    closed = (np.exp(log_softmax(logits, axis=1)) - np.eye(4)[labels]) / 6
    gradient = jax.grad(jaxnet.softmax_cross_entropy)(jnp.asarray(logits), labels)
    np.testing.assert_allclose(gradient, closed, rtol=0, atol=1e-15)


def test_an_impossible_class_that_is_not_the_target_costs_nothing():
    logits = jnp.array([[0.0, -jnp.inf]])
    assert float(jaxnet.softmax_cross_entropy(logits, [0])) == 0
    assert jnp.isfinite(jax.grad(jaxnet.softmax_cross_entropy)(logits, [0])).all()


def test_derivative_in_the_targets_also_where_they_are_zero(x64):
    logits = np.array([[1.0, 2.0, 3.0]])
    gradient = jax.grad(jaxnet.softmax_cross_entropy, 1)(logits, jnp.array([[0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(gradient, -log_softmax(logits, axis=1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
def test_one_hot_rows_of_any_type(dtype, rng):
    logits, labels = rng.standard_normal((6, 4)).astype(np.float32), rng.integers(4, size=6)
    one_hot = np.eye(4)[labels].astype(dtype)
    assert jaxnet.softmax_cross_entropy(logits, one_hot) == jaxnet.softmax_cross_entropy(logits, labels)


def test_lists_are_accepted_where_the_source_fails():
    assert float(jaxnet.mean_squared_error([1, 2], [1, 0])) == 2
    assert float(jaxnet.cross_entropy_label([0.5, 0.5], 1)) == pytest.approx(np.log(2), rel=1e-6)


Y = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("loss", "y", "t", "error", "message"),
    [
        ("mean_squared_error", [1.0], [1.0, 2.0], ValueError, r"the same shape, got \[1\] and \[2\]"),
        ("mean_squared_error", [], [], ValueError, "the batch must not be empty"),
        ("cross_entropy_error0", Y, Y[0], ValueError, r"the same shape, got \[2, 3\] and \[3\]"),
        ("cross_entropy_error", Y, Y[:1], ValueError, "the same shape"),
        ("cross_entropy_error", Y[:0], Y[:0], ValueError, "the batch must not be empty"),
        (
            "cross_entropy_error",
            Y[None],
            Y[None],
            ValueError,
            r"\[n, classes\] or \[classes\], got \[1, 2, 3\]",
        ),
        ("cross_entropy_label", Y, [0, 3], ValueError, r"labels must be in 0..2, got 3 at index 1"),
        ("cross_entropy_label", Y, [-1, 0], ValueError, r"labels must be in 0..2, got -1 at index 0"),
        ("cross_entropy_label", Y, [0.0, 1.0], TypeError, "labels must be integers, got float64"),
        ("cross_entropy_label", Y, [0, 1, 2], ValueError, r"integer labels of shape \[2\]"),
        (
            "cross_entropy_label",
            Y,
            Y,
            ValueError,
            r"t must be integer labels of shape \[2\], got shape \[2, 3\]",
        ),
        ("cross_entropy_label", Y[:0], [], ValueError, "the batch must not be empty"),
        ("softmax_cross_entropy", Y, [0, 3], ValueError, "labels must be in 0..2, got 3 at index 1"),
        ("softmax_cross_entropy", Y, [0.0, 1.0], TypeError, "labels must be integers"),
        ("softmax_cross_entropy", Y, [True, False], TypeError, "labels must be integers, got bool"),
        (
            "softmax_cross_entropy",
            Y,
            np.ones((2, 3)),
            ValueError,
            "rows that sum to 1, got a row that sums to 3 at",
        ),
        ("softmax_cross_entropy", Y, [[2, -1, 0], [1, 0, 0]], ValueError, "non-negative rows that sum to 1"),
        ("softmax_cross_entropy", Y, np.ones((2, 4)), ValueError, r"or one-hot rows of shape \[2, 3\], got"),
        ("softmax_cross_entropy", Y, np.full((2, 3), "a"), TypeError, "targets must be real numbers"),
        ("softmax_cross_entropy", Y[:0], [], ValueError, "the batch must not be empty"),
        ("softmax_cross_entropy", Y * 1j, [0, 1], TypeError, "logits must be real"),
    ],
)
def test_bad_input(unchecked, loss, y, t, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(jaxnet, loss)(y, t)
    assert "\n" not in str(caught.value)


def test_bad_targets_are_named_also_while_a_gradient_is_traced():
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got 5"):
        jax.grad(jaxnet.softmax_cross_entropy)(jnp.asarray(Y), np.array([0, 5]))


@pytest.mark.parametrize("t", [np.array([0, 3]), np.array([-1, 0]), np.array([[1, 0, 0], [1, 1, 0]])])
def test_compiled_code_says_nan_for_bad_targets(t):
    assert jnp.isnan(jax.jit(jaxnet.softmax_cross_entropy)(Y, t))


@pytest.mark.parametrize("one_hot", [False, True])
def test_weighted_cross_entropy_is_scikit_learns(one_hot, rng):
    z, t = rng.standard_normal((9, 3)), rng.integers(3, size=9)
    classes, samples = np.array([0.5, 2.0, 1.0]), rng.random(9)
    y = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    targets = np.eye(3)[t] if one_hot else t
    for options, weights in (
        ({"class_weight": classes}, classes[t]),
        ({"sample_weight": samples}, samples),
        ({"class_weight": classes, "sample_weight": samples}, classes[t] * samples),
    ):
        expected = log_loss(t, y, sample_weight=weights, labels=[0, 1, 2])
        assert float(jaxnet.softmax_cross_entropy(z, targets, **options)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": [1, 2]}, r"class_weight must have shape \[3\], got \[2\]"),
        ({"class_weight": [1, 2, -1]}, r"class_weight must be finite and not negative, got \[1, 2, -1\]"),
        ({"sample_weight": [np.nan, 1]}, "sample_weight must be finite and not negative"),
        ({"sample_weight": [0, 0]}, "sample_weight must not be all zero"),
    ],
)
def test_bad_weights(options, message):
    with pytest.raises(ValueError, match=message):
        jaxnet.softmax_cross_entropy(np.zeros((2, 3)), [0, 1], **options)
