"""Estimators for scikit-learn's pipelines, searches and cross-validation: thin ones over `fit`.

They follow its conventions: settings in the constructor, what is learnt in attributes that end in `_`. Inputs
are taken as they come: put a `StandardScaler` before them where features differ in size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Self

import jax
import numpy as np
import optax
from jax import Array

from jaxnet import _extras, network, optimizers
from jaxnet.training import BATCH_SIZE, fit
from jaxnet.training.examples import check_positive_int

_base = _extras.require("sklearn.base", "jaxnet.sklearn needs", "sklearn")
_utils = _extras.require("sklearn.utils", "jaxnet.sklearn needs", "sklearn")
_class_weight = _extras.require("sklearn.utils.class_weight", "jaxnet.sklearn needs", "sklearn")
_validation = _extras.require("sklearn.utils.validation", "jaxnet.sklearn needs", "sklearn")
_multiclass = _extras.require("sklearn.utils.multiclass", "jaxnet.sklearn needs", "sklearn")
_math = _extras.require("sklearn.utils.extmath", "jaxnet.sklearn needs", "sklearn")

_FEATURES = 16
_DTYPES = [np.float64, np.float32]

__all__ = ["Classifier", "Regressor"]


class _Estimator(_base.BaseEstimator):
    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        *,
        activation: network.ActivationName = "relu",
        optimizer: str | optax.GradientTransformation = "adam",
        learning_rate: float | None = None,
        epochs: int = 100,
        batch_size: int = BATCH_SIZE,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def _checked(self, x: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[np.ndarray, ...]:
        """Return examples and their weights, without those that weigh nothing."""
        x, y = _validation.validate_data(self, x, y, dtype=_DTYPES, **options)
        weights = _validation._check_sample_weight(sample_weight, x, dtype=x.dtype)
        if (weights < 0).any() or not weights.any():
            raise ValueError("sample_weight must be not negative and not all zero, got no such weights")
        kept = weights > 0
        return x[kept], y[kept], weights[kept]

    def _train(
        self, loss: Callable[..., Array], x: np.ndarray, t: np.ndarray, weights: np.ndarray, outputs: int
    ) -> network.Params:
        """Return trained parameters.

        Examples without weight fill up the last batch, so that an epoch goes through all, and features that
        are 0 a multiple of some: the many models of a search or cross-validation share a program.
        """
        epochs, batch_size = (
            check_positive_int(getattr(self, name), name) for name in ("epochs", "batch_size")
        )
        batch_size = min(batch_size, 1 << (len(x) - 1).bit_length())  # few sizes, as for features
        if self.learning_rate is not None and not isinstance(self.optimizer, str):
            raise ValueError(
                f"learning_rate must be None with an optimizer of optax, got {self.learning_rate}"
            )
        random = _utils.check_random_state(self.random_state)
        hidden = [check_positive_int(units, "hidden") for units in np.atleast_1d(self.hidden).tolist()]
        params = []
        for shape in pairwise([x.shape[1], *hidden, outputs]):
            weight: Any = random.standard_normal(shape).astype(x.dtype) / shape[0] ** 0.5
            bias: Any = np.zeros(shape[1], x.dtype)
            params.append(network.Dense(weight, bias))
        features, missing = -x.shape[1] % _FEATURES, -len(x) % batch_size
        params[0] = _padded(params[0], features)
        x = np.pad(x, [(0, missing), (features, 0)])
        t, weights = (np.pad(array, (0, missing)) for array in (t, weights))
        rule = self.optimizer
        how: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "sampling": "shuffle"}
        if len(x) == batch_size:  # nothing to draw: no program for it
            how = {"batches": np.tile(np.arange(batch_size), (epochs, 1))}
        with jax.enable_x64(x.dtype == np.float64):
            result = fit(
                partial(loss, activation=self.activation),
                tuple(params),
                (x, t),
                optimizer=optimizers.optimizer(rule, self.learning_rate) if isinstance(rule, str) else rule,
                sample_weight=weights,
                **how,
                key=random.randint(2**31),
                progress=False,
            )
        self.loss_curve_ = result.history.loss
        first, *rest = jax.tree.map(np.asarray, result.params)
        return (first._replace(weight=first.weight[features:]), *rest)

    def _outputs(self, x: Any) -> np.ndarray:
        _validation.check_is_fitted(self)
        x = _validation.validate_data(self, x, dtype=self.params_[0].weight.dtype, reset=False)
        size = max(64, 1 << (len(x) - 1).bit_length())
        features = -x.shape[1] % _FEATURES
        params = (_padded(self.params_[0], features), *self.params_[1:])
        padded = np.pad(x, [(0, size - len(x)), (features, 0)])
        with jax.enable_x64(x.dtype == np.float64):
            outputs = _logits(params, padded, activation=self.activation)
        return np.asarray(outputs)[: len(x)]


def _padded(layer: network.Dense, features: int) -> network.Dense:
    """Return a layer with weights for features before its own."""
    weight: Any = np.pad(layer.weight, [(features, 0), (0, 0)])
    return layer._replace(weight=weight)


_logits = jax.jit(network.logits, static_argnames="activation")


class Classifier(_base.ClassifierMixin, _Estimator):
    """A network for classes: its loss is the cross entropy, weighted by `sample_weight`.

    hidden: units of each hidden layer. optimizer: a name of `jaxnet.optimizers`, or one of optax's; the
    learning rate is of one by name, by default its own. batch_size: examples per step, each epoch going
    through a fresh permutation of all; fewer are one batch. class_weight: "balanced", by which all classes
    weigh the same, or the weight of each by its label, beside `sample_weight`. random_state: a seed of the
    initial weights and of the batches. Fitted: `classes_`, `params_` (of `jaxnet.network`) and `loss_curve_`
    [steps].

    `fit` raises ValueError for labels that are no classes, for settings that `fit` and `network.init` refuse,
    and for whatever scikit-learn refuses in an array.

    >>> x, t = np.array([[0.0], [0.1], [0.9], [1.0]]), np.array(["low", "low", "high", "high"])
    >>> model = Classifier(hidden=(20,), learning_rate=0.01, random_state=0).fit(x, t)
    >>> model.predict([[0.0], [1.0]]), model.predict_proba([[0.0]]).shape
    (array(['low', 'high'], dtype='<U4'), (1, 2))
    """

    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        *,
        activation: network.ActivationName = "relu",
        optimizer: str | optax.GradientTransformation = "adam",
        learning_rate: float | None = None,
        epochs: int = 100,
        batch_size: int = BATCH_SIZE,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden,
            activation=activation,
            optimizer=optimizer,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X [n, features] and labels y [n] of any kind; return self."""
        X, y, weights = self._checked(X, y, sample_weight)
        _multiclass.check_classification_targets(y)
        weights = weights * _class_weight.compute_sample_weight(self.class_weight, y).astype(X.dtype)
        self.classes_, t = np.unique(y, return_inverse=True)
        self.params_ = self._train(network.loss, X, t.astype(np.int32), weights, len(self.classes_))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each of `classes_` [n, classes]."""
        result: np.ndarray = _math.softmax(self._outputs(X))
        return result

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of these probabilities [n, classes]."""
        outputs = self._outputs(X)
        below = outputs - outputs.max(axis=1, keepdims=True)
        result: np.ndarray = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return result

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each example [n]."""
        best = self._outputs(X).argmax(axis=1)
        result: np.ndarray = self.classes_[best]
        return result


class Regressor(_base.RegressorMixin, _Estimator):
    """A network for numbers: its loss is the mean squared error, weighted by `sample_weight`.

    It is trained on targets of mean 0 and variance 1, and answers in their own units. Settings as of
    `Classifier`.

    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = Regressor(learning_rate=0.01, random_state=0).fit(x, 1000 + 50 * x[:, 0] ** 2)
    >>> model.score(x, 1000 + 50 * x[:, 0] ** 2) > 0.95
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X [n, features] and targets y [n]; return self."""
        X, y, weights = self._checked(X, y, sample_weight, y_numeric=True)
        mean = np.average(y, weights=weights)
        scale = np.sqrt(np.average((y - mean) ** 2, weights=weights)) or 1.0
        t = ((y - mean) / scale).astype(X.dtype)
        params = self._train(network.squared_loss, X, t, weights, 1)
        self.params_ = network.rescaled(params, float(scale), float(mean))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the prediction for each example [n]."""
        return self._outputs(X)[:, 0]
