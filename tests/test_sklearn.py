"""The estimators, by scikit-learn's own checks and in its own tools."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets as theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from jaxnet.sklearn import Classifier, Regressor

X, LABELS = theirs.load_iris(return_X_y=True)


# `make test` runs one of the two, `make test-all` both: it is compilation, for half a minute.
@pytest.mark.parametrize(
    "estimator",
    [pytest.param(Classifier(), marks=pytest.mark.rest), Regressor()],
    ids=["Classifier", "Regressor"],
)
def test_scikit_learns_own_checks(estimator):
    # Those for arrays of other libraries run only in a process that switched SciPy to them.
    results = check_estimator(estimator, on_skip=None)
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}


def softmax_loss(params, x, t, w):
    (w1, b1), (w2, b2) = params
    log_shares = jax.nn.log_softmax(jnp.maximum(x @ w1 + b1, 0) @ w2 + b2)
    return -(w * log_shares[jnp.arange(len(t)), t]).sum() / w.sum()


def squared_loss(params, x, t, w):
    (w1, b1), (w2, b2) = params
    return (w * ((jnp.maximum(x @ w1 + b1, 0) @ w2 + b2)[:, 0] - t) ** 2).sum() / w.sum()


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_a_fit_is_a_loop_of_optax(kind, x64):
    weights = np.random.default_rng(0).uniform(0.5, 2, 70)
    x, t = X[30:100], LABELS[30:100] if kind is Classifier else 3 + 5 * X[30:100, 0]
    settings = {"hidden": (7,), "optimizer": optax.adam(0.02), "random_state": 5}
    model = kind(**settings, epochs=50).fit(x, t, weights)

    # One batch of all, from the start that the seed gives.
    random = np.random.RandomState(5)
    outputs = 2 if kind is Classifier else 1
    sizes = (4, 7), (7, outputs)
    params = [(random.standard_normal(size) / size[0] ** 0.5, np.zeros(size[1])) for size in sizes]
    mean = np.average(t, weights=weights)
    scale = np.average((t - mean) ** 2, weights=weights) ** 0.5
    target = t if kind is Classifier else (t - mean) / scale
    rule = optax.adam(0.02)
    state = rule.init(params)
    loss = softmax_loss if kind is Classifier else squared_loss

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params, x, target, weights)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(50):
        params, state, value = step(params, state)
        losses.append(value)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-9)
    found = np.maximum(x @ params[0][0] + params[0][1], 0) @ params[1][0] + params[1][1]
    if kind is Classifier:
        np.testing.assert_allclose(model.predict_proba(x), jax.nn.softmax(found), rtol=1e-8)
        np.testing.assert_array_equal(model.predict(x), found.argmax(axis=1))
    else:
        np.testing.assert_allclose(model.predict(x), found[:, 0] * scale + mean, rtol=1e-8)


def test_a_pipeline_in_a_search():
    names = np.array(["setosa", "versicolor", "virginica"])[LABELS]
    model = make_pipeline(StandardScaler(), Classifier(learning_rate=0.01, random_state=0))
    search = GridSearchCV(model, {"standardscaler": [None, StandardScaler()]}, cv=2).fit(X, names)
    assert search.cv_results_["mean_test_score"].min() > 0.9
    assert set(search.predict(X)) == set(names)


def test_single_precision_is_kept_and_a_seed_gives_the_same_bits():
    def probabilities(x, seed):
        return Classifier(random_state=seed).fit(x, LABELS[:100]).predict_proba(x)

    x = X[:100].astype(np.float32)
    one = probabilities(x, 1)
    assert one.dtype == np.float32 and one.tobytes() == probabilities(x, 1).tobytes()
    assert one.tobytes() != probabilities(x, 2).tobytes()
    assert probabilities(X[:100], 1).dtype == np.float64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hidden": (5, 0)}, ValueError, "hidden must be positive, got 0"),
        ({"hidden": 2.5}, TypeError, "hidden must be an integer, got 2.5"),
        ({"epochs": 0}, ValueError, "epochs must be positive, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, got 1.5"),
        ({"activation": "gelu"}, ValueError, "activation must be one of .*, got 'gelu'"),
        ({"optimizer": "sdg"}, ValueError, "optimizer must be one of .*, got 'sdg'"),
        ({"learning_rate": -1}, ValueError, "learning_rate must be positive, got -1"),
        ({"learning_rate": "auto"}, ValueError, "learning_rate must be positive, got 'auto'"),
        (
            {"optimizer": optax.adam(0.1), "learning_rate": 0.1},
            ValueError,
            "learning_rate must be None with an optimizer of optax, got 0.1",
        ),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        Classifier(**settings).fit(X, LABELS)


def test_a_batch_larger_than_the_data_is_all_of_them():
    large, whole = (
        Classifier(random_state=0, epochs=3, batch_size=size).fit(X, LABELS) for size in (10**9, 256)
    )
    np.testing.assert_array_equal(large.loss_curve_, whole.loss_curve_)
    np.testing.assert_allclose(large.predict_log_proba(X), np.log(large.predict_proba(X)), atol=1e-12)


def test_bad_weights():
    for weights in (-np.ones(150), np.zeros(150)):
        with pytest.raises(ValueError, match=r"sample_weight must be not negative|at least one non-zero"):
            Regressor().fit(X, LABELS, weights)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        Classifier().fit(X, X[:, 0])


def test_classes_weigh_as_they_are_told_to():
    x, t = X[30:70], LABELS[30:70]  # 20 of each, of which 15 go
    x, t = x[15:], t[15:]
    settings = {"hidden": (7,), "random_state": 5, "epochs": 20}
    balanced = Classifier(**settings, class_weight="balanced").fit(x, t)
    by_hand = Classifier(**settings).fit(x, t, np.where(t == 0, 25 / 10, 25 / 40))
    np.testing.assert_allclose(balanced.loss_curve_, by_hand.loss_curve_, rtol=1e-12)
    named = Classifier(**settings, class_weight={0: 2.5, 1: 0.625}).fit(x, t)
    np.testing.assert_allclose(named.loss_curve_, by_hand.loss_curve_, rtol=1e-12)
    with pytest.raises(ValueError, match="class_weight"):
        Classifier(class_weight="even").fit(x, t)
