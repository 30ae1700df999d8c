"""Metrics of predictions, as scikit-learn defines and names them, each a pure function that JAX can trace.

Classification: y [n, classes] are scores whose largest is the prediction (logits, probabilities, or one-hot
labels), t integer labels [n] or rows as in `network.loss`. Regression: y and t are [n] or [n, outputs]; y
[n, 1], a network's, goes with t [n]. `sample_weight` [n] weighs the examples; by default all count alike.

Every metric raises ValueError for shapes that do not fit, an empty batch and bad weights, and TypeError for
labels that are not integers. Where values cannot be seen, inside `jax.jit`, bad ones make the metric NaN.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Num

from jaxnet import _names
from jaxnet.activations import _as_float
from jaxnet.losses import _ROW_SUM_TOLERANCE, Targets, _weights, target_distribution

Values = Num[ArrayLike, "..."] | list[Any]
Average = Literal["binary", "micro", "macro", "weighted"]
Metric = Callable[..., Array]


def accuracy(y: Values, t: Targets, *, sample_weight: Values | None = None) -> Float[Array, ""]:
    """Return the share of examples whose largest score is the target's, `accuracy_score`.

    >>> accuracy([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.5, 0.0]], [0, 1, 1, 0])
    Array(0.75, dtype=float32)
    """
    y, labels, weights = _classified(y, t, sample_weight)
    return _mean((jnp.argmax(y, axis=1) == labels).astype(y.dtype), weights)


def top_k_accuracy(
    y: Values, t: Targets, *, k: int = 2, sample_weight: Values | None = None
) -> Float[Array, ""]:
    """Return the share of examples whose target is among the k largest scores, `top_k_accuracy_score`.

    Of equal scores that of the higher class comes first, as there.

    >>> top_k_accuracy([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [1, 0], k=2)
    Array(0.5, dtype=float32)
    """
    y, labels, weights = _classified(y, t, sample_weight)
    if not 1 <= k <= y.shape[1]:
        raise ValueError(f"k must be in 1..{y.shape[1]}, the number of classes, got {k}")
    own = jnp.take_along_axis(y, labels[:, None], axis=1)
    before = (y > own) | ((y == own) & (jnp.arange(y.shape[1]) > labels[:, None]))
    return _mean((before.sum(axis=1) < k).astype(y.dtype), weights)


def confusion_matrix(
    y: Values, t: Targets, *, sample_weight: Values | None = None
) -> Float[Array, "classes classes"]:
    """Return how many examples of each class (row) were taken for each class (column), or their weight.

    >>> confusion_matrix([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [0, 1, 1])
    Array([[1., 0.],
           [1., 1.]], dtype=float32)
    """
    y, labels, weights = _classified(y, t, sample_weight)
    classes = jnp.arange(y.shape[1])
    actual = (labels[:, None] == classes) * weights[:, None]  # a product, so that NaN stays
    predicted = (jnp.argmax(y, axis=1)[:, None] == classes).astype(y.dtype)
    return jnp.matmul(actual.T, predicted, precision="highest")


def precision(
    y: Values, t: Targets, *, average: Average | None = "binary", sample_weight: Values | None = None
) -> Float[Array, "..."]:
    """Return the share of what was taken for a class that is of it, `precision_score`; 0 of nothing.

    average: "binary" is that of class 1 of two; of each class alone with None, their mean with "macro", by
    the number of examples with "weighted", all decisions taken together with "micro". Classes that neither
    occur nor are predicted do not count.

    Raises:
        ValueError: an unknown average, or "binary" of more than two classes.

    >>> precision([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]], [0, 1, 0])
    Array(0.5, dtype=float32)
    """
    return _averaged(lambda hits, actual, predicted: (hits, predicted), y, t, average, sample_weight)


def recall(
    y: Values, t: Targets, *, average: Average | None = "binary", sample_weight: Values | None = None
) -> Float[Array, "..."]:
    """Return the share of a class that was taken for it, `recall_score`; average as in `precision`.

    >>> recall([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]], [0, 1, 0])
    Array(1., dtype=float32)
    """
    return _averaged(lambda hits, actual, predicted: (hits, actual), y, t, average, sample_weight)


def f1(
    y: Values, t: Targets, *, average: Average | None = "binary", sample_weight: Values | None = None
) -> Float[Array, "..."]:
    """Return the harmonic mean of precision and recall, `f1_score`; average as in `precision`.

    >>> f1([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]], [0, 1, 0]).round(4)
    Array(0.6667, dtype=float32)
    """
    return _averaged(
        lambda hits, actual, predicted: (2 * hits, actual + predicted), y, t, average, sample_weight
    )


def roc_auc(y: Values, t: Targets, *, sample_weight: Values | None = None) -> Float[Array, ""]:
    """Return the area under the ROC curve, `roc_auc_score`; NaN where a class has no examples, or all.

    It is the probability that an example of the class has a higher score than one of another, equal ones
    counting half. y: scores [n] of class 1 of two; or the probabilities [n, classes] of `network.predict`: of
    class 1 of two, beyond two the mean over classes of each against the rest (`multi_class="ovr"`).

    Raises:
        ValueError: rows of y that are no probabilities.

    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    Array(0.75, dtype=float32)
    """
    y = _as_float(y, "y")
    if y.ndim == 1:
        y = jnp.stack([-y, y], axis=1)
    elif y.size:
        off = jnp.abs(y.sum(axis=-1) - 1).max()
        if not isinstance(off, jax.core.Tracer) and off > _ROW_SUM_TOLERANCE:
            raise ValueError(
                f"y must be scores [n] or rows that sum to 1, got a row that is off by {off:.3g}"
            )
        y = jnp.where(off > _ROW_SUM_TOLERANCE, jnp.nan, y)
    y, labels, weights = _classified(y, t, sample_weight)
    classes = [1] if y.shape[1] == 2 else range(y.shape[1])
    return jnp.stack([_area(y[:, c], labels == c, weights) for c in classes]).mean()


def mean_squared_error(y: Values, t: Values, *, sample_weight: Values | None = None) -> Float[Array, ""]:
    """Return the mean of `(y - t)²`, not halved and not summed as the source's `jaxnet.mean_squared_error`.

    >>> mean_squared_error([[1.0], [2.0]], [1.0, 4.0])
    Array(2., dtype=float32)
    """
    y, t, weights = _regressed(y, t, sample_weight)
    return _mean((y - t) ** 2, weights).mean()


def mean_absolute_error(y: Values, t: Values, *, sample_weight: Values | None = None) -> Float[Array, ""]:
    """Return the mean of `|y - t|`.

    >>> mean_absolute_error([1.0, 2.0], [1.0, 4.0])
    Array(1., dtype=float32)
    """
    y, t, weights = _regressed(y, t, sample_weight)
    return _mean(jnp.abs(y - t), weights).mean()


def r2(y: Values, t: Values, *, sample_weight: Values | None = None) -> Float[Array, ""]:
    """Return the coefficient of determination `1 - Σ (y - t)² / Σ (t - mean(t))²`, `r2_score`.

    The mean of those of several outputs. Where t is constant, 1 if y is t and 0 if not, as there.

    >>> r2([0.0, 2.0, 2.0], [0.0, 2.0, 4.0])
    Array(0.5, dtype=float32)
    """
    y, t, weights = _regressed(y, t, sample_weight)
    left, spread = _mean((y - t) ** 2, weights), _mean((t - _mean(t, weights)) ** 2, weights)
    constant = jnp.where(left == 0, 1.0, jnp.where(jnp.isnan(left), jnp.nan, 0.0)).astype(left.dtype)
    return jnp.where(spread == 0, constant, 1 - left / jnp.where(spread == 0, 1, spread)).mean()


_OF_CLASSES = (precision, recall, f1)
_AVERAGES: tuple[Average, ...] = ("micro", "macro", "weighted")
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_k_accuracy": top_k_accuracy,
    "confusion_matrix": confusion_matrix,
    **{f.__name__: f for f in _OF_CLASSES},
    **{f"{f.__name__}_{average}": partial(f, average=average) for f in _OF_CLASSES for average in _AVERAGES},
    "roc_auc": roc_auc,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "r2": r2,
}


class ClassificationReport(NamedTuple):
    """How good predictions are, altogether and of each class."""

    scores: dict[str, Array]
    """Every metric of `METRICS` that is one number for so many classes, by name."""
    precision: Float[Array, " classes"]
    recall: Float[Array, " classes"]
    f1: Float[Array, " classes"]
    support: Float[Array, " classes"]
    """How many examples each class has."""
    confusion_matrix: Float[Array, "classes classes"]


def classification_report(y: Values, t: Targets) -> ClassificationReport:
    """Return every metric of probabilities y [n, classes], as of `network.predict`, and those of each class.

    Raises ValueError and TypeError as the metrics do.

    >>> report = classification_report([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
    >>> report.scores["accuracy"].round(4), report.recall, report.support
    (Array(0.6667, dtype=float32), Array([1. , 0.5], dtype=float32), Array([1., 2.], dtype=float32))
    >>> float(report.scores["recall"]), "top_k_accuracy" in report.scores
    (0.5, False)
    """
    matrix = confusion_matrix(y, t)
    binary = ("precision", "recall", "f1")
    # Of two classes all examples are among the top two.
    left_out = {"confusion_matrix", *(("top_k_accuracy",) if len(matrix) == 2 else binary)}
    names = (name for name in _names.METRICS_OF_CLASSES if name not in left_out)
    scores = {name: METRICS[name](y, t) for name in names}
    each = {name: METRICS[name](y, t, average=None) for name in binary}
    return ClassificationReport(scores, **each, support=matrix.sum(axis=1), confusion_matrix=matrix)


def of(model: Callable[[Any, Any], Array], *names: str, **functions: Metric) -> dict[str, Metric]:
    """Return what `fit` takes as `metrics`: those of `model(params, x)`, by their names in `METRICS`.

    functions: your own of (y, t), or these with settings, such as `top_5=partial(top_k_accuracy, k=5)`.

    Raises:
        ValueError: a name that is not known.

    >>> from jaxnet import network
    >>> list(of(network.logits, "accuracy", "f1_macro", top_5=partial(top_k_accuracy, k=5)))
    ['accuracy', 'f1_macro', 'top_5']
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(f"a metric must be one of {', '.join(METRICS)}, got {name!r}")

    def applied(metric: Metric) -> Metric:
        return lambda params, x, t, **options: metric(model(params, x), t, **options)

    return {name: applied(metric) for name, metric in ({n: METRICS[n] for n in names} | functions).items()}


def _classified(
    y: Values, t: Targets, sample_weight: Values | None
) -> tuple[Float[Array, "n classes"], Int[Array, " n"], Float[Array, " n"]]:
    """Return scores, labels in range and weights, which are NaN where a score or a target is bad."""
    y = _as_float(y, "y")
    if y.ndim != 2 or not y.size:
        raise ValueError(f"y must be scores of shape [n, classes] and not be empty, got {list(y.shape)}")
    rows, labels = target_distribution(t, y.shape, y.dtype)
    bad = (jnp.isnan(rows) | jnp.isnan(y)).any(axis=1)
    weights = jnp.where(bad, jnp.nan, _example_weights(sample_weight, y))
    return y, jnp.clip(labels, 0, y.shape[1] - 1), weights


def _regressed(y: Values, t: Values, sample_weight: Values | None) -> tuple[Array, Array, Float[Array, " n"]]:
    """Return predictions and targets of one shape, and weights."""
    y, t = _as_float(y, "y"), _as_float(t, "t")
    if y.shape == (*t.shape, 1):
        y = y[..., 0]
    if y.shape != t.shape or y.ndim not in (1, 2):
        raise ValueError(
            f"y and t must both have shape [n] or [n, outputs], got {list(y.shape)} and {list(t.shape)}"
        )
    if not y.size:
        raise ValueError(f"the batch must not be empty, got shape {list(y.shape)}")
    return y, t.astype(y.dtype), _example_weights(sample_weight, y)


def _example_weights(sample_weight: Values | None, y: Array) -> Array:
    if sample_weight is None:
        return jnp.ones(len(y), y.dtype)
    return _weights(sample_weight, y.shape[:1], y.dtype, "sample_weight")


def _mean(values: Array, weights: Array) -> Array:
    """Return the weighted mean over the first axis."""
    return jnp.tensordot(weights, values, 1, precision="highest") / weights.sum()


def _averaged(
    share: Callable[[Array, Array, Array], tuple[Array, Array]],
    y: Values,
    t: Targets,
    average: str | None,
    sample_weight: Values | None,
) -> Array:
    """Return a share of the hits, the examples and the predictions of each class, averaged."""
    matrix = confusion_matrix(y, t, sample_weight=sample_weight)
    counts = jnp.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    if average == "micro":
        return _ratio(*share(*(count.sum() for count in counts)))
    each = _ratio(*share(*counts))
    if average is None:
        return each
    if average == "binary":
        if len(each) != 2:
            raise ValueError(
                f"average 'binary' is of two classes, got {len(each)}: take 'macro', 'micro' or 'weighted'"
            )
        return each[1]
    if average == "weighted":
        return _mean(each, counts[1])
    if average == "macro":
        # Of the unweighted counts: an example of weight 0 occurs too.
        seen = confusion_matrix(y, t)
        return _mean(each, ((seen.sum(axis=1) + seen.sum(axis=0)) > 0).astype(each.dtype))
    raise ValueError(f"average must be 'binary', 'micro', 'macro', 'weighted' or None, got {average!r}")


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _area(scores: Array, positive: Array, weights: Array) -> Array:
    order = jnp.argsort(scores)
    scores, wins, losses = (a[order] for a in (scores, weights * positive, weights * ~positive))
    below = jnp.concatenate([jnp.zeros(1, losses.dtype), jnp.cumsum(losses)])
    beaten = sum(below[jnp.searchsorted(scores, scores, side=side)] for side in ("left", "right")) / 2
    return _mean(beaten / losses.sum(), wins)
