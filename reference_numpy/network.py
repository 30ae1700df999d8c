"""Activations, the one-matrix network of section 4.2 and the two-layer network of section 4.3."""

from collections.abc import Callable

import numpy as np

from .differentiation import numerical_gradient
from .losses import cross_entropy_error, cross_entropy_from_logits

Activation = Callable[[np.ndarray], np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    """The exponentials are divided by their sum over the whole array, as published (4.2).

    Formula: exp(x - max(x)) / sum(exp(x - max(x))), maximum and sum over every element, any shape.

    >>> softmax(np.zeros((2, 2)))
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    exps = np.exp(x - np.max(x))
    result: np.ndarray = exps / np.sum(exps)
    return result


def softmax_by_row(x: np.ndarray) -> np.ndarray:
    """Each row is normalised by itself, `x` [c] or [n, c] (correction of 4.2).

    >>> softmax_by_row(np.zeros((2, 2)))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    exps = np.exp(x - np.max(x, axis=-1, keepdims=True))
    result: np.ndarray = exps / np.sum(exps, axis=-1, keepdims=True)
    return result


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function is returned elementwise, overflowing far below zero as published (4.3).

    Formula: 1 / (1 + exp(-x)).

    >>> float(sigmoid(np.array(0.0)))
    0.5
    """
    result: np.ndarray = 1 / (1 + np.exp(-x))
    return result


def sigmoid_stable(x: np.ndarray) -> np.ndarray:
    """The logistic function is returned elementwise without overflow (correction of 4.3).

    Formula: exp(-log(1 + exp(-x))), the logarithm by `np.logaddexp`.

    >>> float(sigmoid_stable(np.array(-1000.0)))
    0.0
    """
    result: np.ndarray = np.exp(-np.logaddexp(0, -x))
    return result


def sigmoid_grad(x: np.ndarray, sigmoid: Activation = sigmoid) -> np.ndarray:
    """The derivative of the sigmoid at `x` is returned elementwise (4.3).

    Formula: (1 - s) s, s = sigmoid(x).

    >>> float(sigmoid_grad(np.array(0.0)))
    0.25
    """
    s = sigmoid(x)
    return (1 - s) * s


def simple_net_loss(W: np.ndarray, x: np.ndarray, t: np.ndarray, softmax: Activation = softmax) -> float:
    """The cross entropy of a one-matrix network is returned as a function of its weights (correction of 4.2).

    `W` [d, c]; `x` [d] or [n, d]; `t` [c] or [n, c].
    """
    return cross_entropy_error(softmax(x @ W), t)


class SimpleNet:
    """One 2x3 matrix `W` of standard normal weights makes this network, without a bias (4.2)."""

    def __init__(self, rng: np.random.Generator | None = None, softmax: Activation = softmax) -> None:
        """The weights are drawn from `rng`, or from a fresh generator."""
        self.W = (rng or np.random.default_rng()).standard_normal((2, 3))
        self.softmax = softmax

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The logits x W are returned, `x` [2] or [n, 2]."""
        return x @ self.W

    def loss(self, x: np.ndarray, t: np.ndarray) -> float:
        """The cross entropy of the softmax of the logits is returned, `t` [3] or [n, 3]."""
        return simple_net_loss(self.W, x, t, self.softmax)

    def f(self, x: np.ndarray, t: np.ndarray) -> Callable[[object], float]:
        """The demonstration's f(W) is returned: it ignores W and reads the network's own weights.

        `numerical_gradient` gets by with it only because it perturbs those very weights; `simple_net_loss` is
        the function that uses its argument.
        """
        return lambda W: self.loss(x, t)

    def gradient(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The gradient [2, 3] of the loss is found by perturbing `W` in place."""
        return numerical_gradient(self.f(x, t), self.W)


class TwoLayerNet:
    """Two dense layers with a sigmoid between them and a softmax at the end make this network (4.3).

    `params` holds float64 `W1` [d, h], `b1` [h], `W2` [h, c], `b2` [c]: weights `weight_std` times a standard
    normal drawn from `rng`, biases zero. The published softmax spoils batches: `softmax=softmax_by_row` and
    `sigmoid=sigmoid_stable` select the corrections.

    >>> TwoLayerNet(784, 100, 10, softmax=softmax_by_row).predict(np.zeros((100, 784))).shape
    (100, 10)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_std: float = 0.01,
        *,
        softmax: Activation = softmax,
        sigmoid: Activation = sigmoid,
        rng: np.random.Generator | None = None,
    ) -> None:
        """`W1` is drawn first, then `W2`, from `rng` or from a fresh generator."""
        rng = rng or np.random.default_rng()
        self.softmax = softmax
        self.sigmoid = sigmoid
        self.params: dict[str, np.ndarray] = {
            "W1": weight_std * rng.standard_normal((input_size, hidden_size)),
            "b1": np.zeros(hidden_size),
            "W2": weight_std * rng.standard_normal((hidden_size, output_size)),
            "b2": np.zeros(output_size),
        }

    def logits(self, x: np.ndarray) -> np.ndarray:
        """The output before the softmax is returned: sigmoid(x W1 + b1) W2 + b2, [n, c]."""
        p = self.params
        result: np.ndarray = self.sigmoid(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]
        return result

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The softmax of the logits is returned, [n, c] for `x` [n, d]."""
        return self.softmax(self.logits(x))

    def loss(self, x: np.ndarray, t: np.ndarray) -> float:
        """The published cross entropy of the prediction is returned, `t` one-hot [n, c]."""
        return cross_entropy_error(self.predict(x), t)

    def exact_loss(self, x: np.ndarray, t: np.ndarray) -> float:
        """The exact cross entropy of the row-wise softmax is returned, whichever softmax was selected."""
        return cross_entropy_from_logits(self.logits(x), t)

    def accuracy(self, x: np.ndarray, t: np.ndarray) -> float:
        """The share of examples is returned whose largest output is at the one of the one-hot target."""
        return float(np.mean(self.predict(x).argmax(axis=-1) == t.argmax(axis=-1)))

    def numerical_gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of `loss` is found by central differences, as a dict like `params`."""
        return {name: numerical_gradient(lambda _: self.loss(x, t), p) for name, p in self.params.items()}

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient is found by hand-written backpropagation, as a dict like `params`.

        It starts from (y - t) / n, the logits' gradient of `exact_loss` when `y` is the row-wise softmax and
        every row of `t` sums to one; of `loss` it is that gradient only as far as the 1e-7 does not count.
        """
        p = self.params
        a1 = x @ p["W1"] + p["b1"]  # [n, h]
        z1 = self.sigmoid(a1)  # [n, h]
        y = self.softmax(z1 @ p["W2"] + p["b2"])  # [n, c]
        da2 = (y - t) / len(x)  # [n, c]
        da1 = (da2 @ p["W2"].T) * sigmoid_grad(a1, self.sigmoid)  # [n, h]
        return {"W1": x.T @ da1, "b1": da1.sum(axis=0), "W2": z1.T @ da2, "b2": da2.sum(axis=0)}
