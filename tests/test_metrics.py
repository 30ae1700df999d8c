"""Every metric against scikit-learn's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as theirs

import jaxnet
from jaxnet import metrics, network

rng = np.random.default_rng(0)
N = 300
WEIGHTS = {"no weights": None, "weights": rng.uniform(0, 3, N) * (rng.random(N) > 0.2)}
SCORES = {c: np.float32(rng.standard_normal((N, c)).round(1)) for c in (2, 5)}  # rounded: some are equal
LABELS = {
    2: (SCORES[2] @ [-1, 1] + rng.standard_normal(N) > 0.8).astype(int),
    5: np.minimum((SCORES[5] + rng.standard_normal((N, 5))).argmax(axis=1), 3),  # none of class 4
}
Y = rng.standard_normal((N, 3))
T = Y + 0.3 * rng.standard_normal((N, 3))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def assert_agree(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("classes", [2, 5])
def test_classification(classes, weight):
    scores, labels = SCORES[classes], LABELS[classes]
    predicted, known = scores.argmax(axis=1), {"sample_weight": weight}
    everything = known | {"labels": np.arange(classes)}
    expected = {
        "accuracy": theirs.accuracy_score(labels, predicted, **known),
        "confusion_matrix": theirs.confusion_matrix(labels, predicted, **everything),
    }
    several = {}
    for name in ("precision", "recall", "f1"):
        score = partial(getattr(theirs, f"{name}_score"), labels, predicted, zero_division=0)
        for average in ("micro", "macro", "weighted"):
            expected[f"{name}_{average}"] = score(average=average, **known)
        expected[f"{name}_each"] = score(average=None, **everything)
        several[f"{name}_each"] = partial(getattr(metrics, name), average=None)
        if classes == 2:
            expected[name] = score(average="binary", **known)
    if classes == 5:
        for k in (1, 2, 4):
            top = theirs.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(5), **known)
            expected[f"top_{k}"] = top
            several[f"top_{k}"] = partial(metrics.top_k_accuracy, k=k)

    names = expected.keys() - several.keys()

    @jax.jit
    def ours(scores, labels):
        found = metrics.of(lambda params, x: x, *names, **several)
        return {name: metric(None, scores, labels, **known) for name, metric in found.items()}

    assert_agree(ours(scores, labels), expected)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_area_under_the_curve(weight):
    known = {"sample_weight": weight}
    difference, four = SCORES[2] @ np.float32([-1, 1]), softmax(SCORES[5][:, :4])
    two = softmax(SCORES[2])

    @jax.jit
    def ours():
        cases = {"scores": (difference, LABELS[2]), "two": (two, LABELS[2]), "four": (four, LABELS[5])}
        return {name: metrics.roc_auc(*case, **known) for name, case in cases.items()}

    expected = {
        "scores": theirs.roc_auc_score(LABELS[2], difference, **known),
        "two": theirs.roc_auc_score(LABELS[2], two[:, 1], **known),
        "four": theirs.roc_auc_score(LABELS[5], four.astype(np.float64), multi_class="ovr", **known),
    }
    assert_agree(ours(), expected)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_regression(outputs, weight, x64):
    t = T[:, 0] if outputs == 1 else T
    names = ("mean_squared_error", "mean_absolute_error", "r2")
    scores = theirs.mean_squared_error, theirs.mean_absolute_error, theirs.r2_score
    y = Y[:, :outputs]  # a network's [n, 1] goes with [n]
    expected = {name: score(t, y, sample_weight=weight) for name, score in zip(names, scores, strict=True)}
    found = jax.jit(lambda y: {name: metrics.METRICS[name](y, t, sample_weight=weight) for name in names})(y)
    assert_agree(found, expected)


@pytest.mark.parametrize("y", [[2.0, 2.0], [2.0, 3.0]])
def test_r2_of_a_constant_target(y):
    assert float(metrics.r2(y, [2.0, 2.0])) == theirs.r2_score([2.0, 2.0], y)


def test_by_name_in_fit():
    x, t = SCORES[5][:, :4], LABELS[5].astype(np.int32)
    params = network.init(jax.random.key(0), (4, 4), weight_std=1.0)
    top = partial(metrics.top_k_accuracy, k=3)
    wanted = metrics.of(network.predict, "confusion_matrix", "f1_macro", "roc_auc", top_3=top)
    options = {"steps": 60, "optimizer": optax.adam(0.01), "metrics": wanted, "progress": False}
    result = jaxnet.fit(network.loss, params, (x, t), **options)
    scores = np.asarray(network.predict(result.params, x))
    expected = {
        "confusion_matrix": theirs.confusion_matrix(t, scores.argmax(axis=1)),
        "f1_macro": theirs.f1_score(t, scores.argmax(axis=1), average="macro"),
        "roc_auc": theirs.roc_auc_score(t, scores.astype(np.float64), multi_class="ovr"),
        "top_3": theirs.top_k_accuracy_score(t, scores, k=3),
    }
    assert_agree({name: values[-1] for name, values in result.history.train.items()}, expected)


def test_what_cannot_be_seen_becomes_nan():
    @jax.jit
    def found(scores, labels):
        names = ("accuracy", "top_k_accuracy", "roc_auc", "f1_macro", "recall_micro")
        of = metrics.of(lambda params, x: x, *names)
        return jnp.stack([metric(None, scores, labels) for metric in of.values()])

    scores, labels = np.full((3, 3), 1 / 3, np.float32), np.array([0, 1, 2])
    one_nan = scores.copy()
    one_nan[0, 0] = np.nan
    assert np.isfinite(found(scores, labels)).all()
    assert np.isnan(found(scores, np.array([0, 1, 7]))).all()
    assert np.isnan(found(one_nan, labels)).all()
    np.testing.assert_array_equal(np.isnan(found(2 * scores, labels)), [0, 0, 1, 0, 0])
    assert np.isnan(metrics.r2([1.0, np.nan], [2.0, 2.0]))


TWO = np.array([[1.0, 0.0]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "args", "options", "error", "message"),
    [
        ("accuracy", ([1.0, 0.0], [1, 0]), {}, ValueError, r"scores of shape \[n, classes\] .* got \[2\]"),
        ("accuracy", (TWO[:0], []), {}, ValueError, r"not be empty, got \[0, 2\]"),
        ("accuracy", (TWO, [2]), {}, ValueError, r"labels must be in 0\.\.1, got 2 at index 0"),
        ("accuracy", (TWO, [0.5]), {}, TypeError, "labels must be integers, got float"),
        ("accuracy", (TWO, [0]), {"sample_weight": [1, 2]}, ValueError, r"must have shape \[1\], got \[2\]"),
        ("accuracy", (TWO, [0]), {"sample_weight": [-1]}, ValueError, "must be finite and not negative"),
        ("accuracy", ([["x", "y"]], [0]), {}, TypeError, "y must be an array of real numbers"),
        ("top_k_accuracy", (TWO, [0]), {"k": 3}, ValueError, r"k must be in 1\.\.2, .* got 3"),
        ("f1", (np.eye(3), [0, 1, 2]), {}, ValueError, "'binary' is of two classes, got 3: take 'macro'"),
        ("f1", (TWO, [0]), {"average": "mean"}, ValueError, "average must be 'binary', 'micro', .* 'mean'"),
        ("roc_auc", (2 * TWO, [0]), {}, ValueError, "rows that sum to 1, got a row that is off by 1"),
        ("r2", ([1.0, 2.0], TWO), {}, ValueError, r"\[n\] or \[n, outputs\], got \[2\] and \[1, 2\]"),
        ("r2", ([], []), {}, ValueError, r"the batch must not be empty, got shape \[0\]"),
        ("of", (network.logits, "f2"), {}, ValueError, "a metric must be one of accuracy, .*, r2, got 'f2'"),
    ],
)
def test_bad_input(name, args, options, error, message):
    with pytest.raises(error, match=message):
        getattr(metrics, name)(*args, **options)
