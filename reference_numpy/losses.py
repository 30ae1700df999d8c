"""The losses of section 4.1, from probabilities as published and from logits as corrected.

`y` are predictions, `t` targets, the batch is the first axis. The published losses take arrays only: a plain
list raises TypeError.
"""

import numpy as np
from numpy.typing import ArrayLike

# Published guard against log(0). The backward pass of `TwoLayerNet` knows nothing of it: see ERRATA.md.
DELTA = 1e-7


def mean_squared_error(y: np.ndarray, t: np.ndarray) -> float:
    """Half the sum of squared differences is returned, without a mean over elements or batch (4.1).

    Formula: sum((y - t)**2) / 2 over arrays `y`, `t` of one shape.

    >>> mean_squared_error(np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    0.25
    """
    return float(0.5 * np.sum((y - t) ** 2))


def cross_entropy_error0(y: np.ndarray, t: np.ndarray) -> float:
    """The cross entropy of one example with a one-hot target is returned (4.1).

    Formula: -sum(t * log(y + 1e-7)), `y` and `t` [c].

    >>> round(cross_entropy_error0(np.array([0.5, 0.5]), np.array([0.0, 1.0])), 4)
    0.6931
    """
    return float(-np.sum(t * np.log(y + DELTA)))


def cross_entropy_error(y: np.ndarray, t: np.ndarray) -> float:
    """The cross entropy of a batch of one-hot targets is returned, divided by the batch size (4.1).

    Formula: -sum(t * log(y + 1e-7)) / n, `y` and `t` [n, c]; [c] counts as a batch of one.

    >>> round(cross_entropy_error(np.array([[0.5, 0.5], [0.5, 0.5]]), np.eye(2)), 4)
    0.6931
    """
    if np.ndim(y) == 1:
        y, t = y[np.newaxis], t[np.newaxis]
    return float(-np.sum(t * np.log(y + DELTA)) / len(y))


def cross_entropy_label(y: np.ndarray, t: np.ndarray | int) -> float:
    """The cross entropy of a batch of integer labels is returned, divided by the batch size (4.1).

    Formula: -sum_n(log(y[n, t[n]] + 1e-7)) / n, `y` [n, c] and `t` [n]; `y` [c] counts as a batch of one.

    >>> round(cross_entropy_label(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])), 4)
    0.6931
    """
    if np.ndim(y) == 1:
        y, t = y[np.newaxis], np.reshape(t, 1)
    return float(-np.sum(np.log(y[np.arange(len(y)), t] + DELTA)) / len(y))


def cross_entropy_from_logits(logits: ArrayLike, t: ArrayLike) -> float:
    """The exact cross entropy of the row-wise softmax is returned (correction of 4.1).

    Formula: mean_n(sum(t) * logsumexp(logits) - sum(t * logits)), `logits` and `t` [n, c]; [c] counts as a
    batch of one; lists are taken too. Its gradient in the logits is (softmax - t) / n when every row of `t`
    sums to one.

    >>> cross_entropy_from_logits([[0.0, -1000.0]], [[0.0, 1.0]])
    1000.0
    """
    logits, t = np.atleast_2d(logits), np.atleast_2d(t)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    return float(-np.sum(t * log_probabilities) / len(logits))
