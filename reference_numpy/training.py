"""The training loops of sections 4.3 and 4.4: one generator takes the steps, the loops record."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .network import TwoLayerNet


def mini_batch(
    x: np.ndarray, t: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of examples with their targets is drawn uniformly, with replacement (4.1).

    `x` [n, d] and `t` [n, ...] give [batch_size, d] and [batch_size, ...], from the same rows.
    """
    rows = (rng or np.random.default_rng()).integers(len(x), size=batch_size)
    return x[rows], t[rows]


def sgd_steps(
    network: TwoLayerNet,
    x_train: np.ndarray,
    t_train: np.ndarray,
    *,
    iters_num: int = 10000,
    batch_size: int = 100,
    learning_rate: float = 0.1,
    rng: np.random.Generator | None = None,
    batches: np.ndarray | None = None,
) -> Iterator[tuple[int, float]]:
    """The iteration and the loss of its batch after the update are yielded after each update (4.3).

    `network.params` change in place: p -= learning_rate * gradient. `batches` [iters, batch], integer rows of
    the training set, takes the place of drawing, and then of `iters_num`, `batch_size` and `rng`.
    """
    rng = rng or np.random.default_rng()
    for i in range(iters_num if batches is None else len(batches)):
        if batches is None:
            x, t = mini_batch(x_train, t_train, batch_size, rng)
        else:
            x, t = x_train[batches[i]], t_train[batches[i]]
        gradients = network.gradient(x, t)
        for name, gradient in gradients.items():
            network.params[name] -= learning_rate * gradient
        yield i, network.loss(x, t)


def train(network: TwoLayerNet, x_train: np.ndarray, t_train: np.ndarray, **settings: Any) -> list[float]:
    """The network is trained in place and the loss of each batch after its own update is returned (4.3).

    `settings` are the keyword arguments of `sgd_steps`.
    """
    return [loss for _, loss in sgd_steps(network, x_train, t_train, **settings)]


def iterations_per_epoch(train_size: int, batch_size: int) -> int:
    """The iterations that fit into one epoch are counted, at least one (correction of 4.4).

    >>> iterations_per_epoch(60000, 100), iterations_per_epoch(1437, 100), iterations_per_epoch(5, 100)
    (600, 14, 1)
    """
    return max(train_size // batch_size, 1)


def train_and_evaluate(
    network: TwoLayerNet,
    x_train: np.ndarray,
    t_train: np.ndarray,
    x_test: np.ndarray,
    t_test: np.ndarray,
    *,
    batch_size: int = 100,
    batches: np.ndarray | None = None,
    interval: float | None = None,
    printer: Callable[[str], object] = print,
    **settings: Any,
) -> tuple[list[float], list[float], list[float]]:
    """The network is trained in place; losses, training accuracies and test accuracies are returned (4.4).

    Both accuracies are recorded and printed after each iteration i with i % interval == 0. As published the
    interval is max(train_size / batch_size, 1), which divides almost no i when it is not a whole number;
    `interval=iterations_per_epoch(train_size, batch_size)` is the correction. Everything else is as in
    `sgd_steps`, whose remaining keyword arguments are `settings`.
    """
    if batches is not None:
        batch_size = batches.shape[1]
    if interval is None:
        interval = max(len(x_train) / batch_size, 1)
    losses: list[float] = []
    train_accs: list[float] = []
    test_accs: list[float] = []
    for i, loss in sgd_steps(network, x_train, t_train, batch_size=batch_size, batches=batches, **settings):
        losses.append(loss)
        if i % interval == 0:
            train_accs.append(network.accuracy(x_train, t_train))
            test_accs.append(network.accuracy(x_test, t_test))
            printer(f"train acc, test acc | {train_accs[-1]} , {test_accs[-1]}")
    return losses, train_accs, test_accs
