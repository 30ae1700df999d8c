"""The source's run, timed side by side: `make bench`, or `python -m benchmarks.training`.

784-50-10, batches of 100, SGD at 0.1, MNIST where it can be had and else random pixels of its shape. Every
round times each contender once, in turn, on the same batches in the same process; quoted are the medians of
the rounds, and of the ratios to `fit` within each round, since these times drift. All train in float32 from
the same weights and record the loss of every batch, before its update or, as the source does at the price of
another forward pass, after it. That they do the same work is checked by the losses they end at. Compilation
is apart.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
import reference_numpy
from jaxnet import datasets, network, training

LEARNING_RATE, BATCH_SIZE = 0.1, 100
Params = list[np.ndarray]


def numpy_loop(params: Params, x: np.ndarray, t: np.ndarray, batches: np.ndarray) -> list[float]:
    """The same algorithm tuned by hand: one forward pass, the loss from its logits, the backward pass."""
    w1, b1, w2, b2 = (p.copy() for p in params)
    rate = np.float32(LEARNING_RATE)
    losses = []
    for rows in batches:
        x_batch, labels = x[rows], t[rows]
        a = 1 / (1 + np.exp(-(x_batch @ w1 + b1)))
        z = a @ w2 + b2
        z -= z.max(axis=1, keepdims=True)
        exps = np.exp(z)
        sums = exps.sum(axis=1, keepdims=True)
        index = np.arange(len(rows)), labels
        losses.append(float(np.mean(np.log(sums[:, 0]) - z[index])))
        dz = exps / sums
        dz[index] -= 1
        dz /= np.float32(len(rows))
        da = dz @ w2.T * a * (1 - a)
        w2 -= rate * (a.T @ dz)
        b2 -= rate * dz.sum(axis=0)
        w1 -= rate * (x_batch.T @ da)
        b1 -= rate * da.sum(axis=0)
    return losses


def reference_loop(params: Params, x: np.ndarray, t: np.ndarray, batches: np.ndarray) -> list[float]:
    """The source's own loop in float32, with the corrected softmax."""
    net = reference_numpy.TwoLayerNet(784, 50, 10, softmax=reference_numpy.softmax_by_row)
    net.params = {name: p.copy() for name, p in zip(("W1", "b1", "W2", "b2"), params, strict=True)}
    one_hot = np.eye(10, dtype=np.float32)[t]
    return reference_numpy.train(net, x, one_hot, batches=batches, learning_rate=np.float32(LEARNING_RATE))


def jitted_step_loop(params: Params, x: np.ndarray, t: np.ndarray, batches: np.ndarray) -> list[float]:
    """The usual JAX loop: one jitted step, called from Python with a batch that NumPy gathered."""
    state = training.init_state(to_network(params), OPTIMIZER)
    losses = []
    for rows in batches:
        state, loss = training.train_step(state, x[rows], t[rows], loss=network.loss, optimizer=OPTIMIZER)
        losses.append(loss)
    return [float(loss) for loss in losses]


def fit(
    params: Params, x: np.ndarray, t: np.ndarray, batches: np.ndarray, *, after: bool = False
) -> np.ndarray:
    result = jaxnet.fit(
        network.loss,
        to_network(params),
        (x, t),
        batches=batches,
        optimizer=OPTIMIZER,
        loss_after_update=after,
        progress=False,
    )
    return result.history.loss


OPTIMIZER = optax.sgd(LEARNING_RATE)
CONTENDERS: dict[str, Callable[[Params, np.ndarray, np.ndarray, np.ndarray], list[float] | np.ndarray]] = {
    "jaxnet.fit": fit,
    "jitted step, Python loop": jitted_step_loop,
    "NumPy float32, tuned": numpy_loop,
    "fit, loss after update": partial(fit, after=True),
    "NumPy float32, the source's": reference_loop,
}


def to_network(params: Params) -> network.Params:
    w1, b1, w2, b2 = params
    return network.Dense(jnp.asarray(w1), jnp.asarray(b1)), network.Dense(jnp.asarray(w2), jnp.asarray(b2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    try:
        (x, t), _ = datasets.load_mnist()
        data = "MNIST"
    except FileNotFoundError:
        x, t = rng.random((60_000, 784), np.float32), rng.integers(10, size=60_000).astype(np.int32)
        data = "random pixels of MNIST's shape"
    sizes = ((784, 50), (50,), (50, 10), (10,))
    params = [0.01 * rng.standard_normal(size, np.float32) * (len(size) == 2) for size in sizes]
    batches = rng.integers(len(x), size=(options.steps, BATCH_SIZE))
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "numpy"))
    print(f"{data}, {options.steps} steps, {options.rounds} rounds; {jax.devices()[0]}")
    print(f"Python {platform.python_version()}, {versions}")

    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    first, final = {}, {}
    for round_ in range(options.rounds + 1):
        for name, contender in CONTENDERS.items():
            start = time.perf_counter()
            losses = contender(params, x, t, batches)
            elapsed = time.perf_counter() - start
            if round_ == 0:  # with compilation
                first[name], final[name] = elapsed, float(np.mean(losses[-100:]))
            else:
                seconds[name].append(elapsed)
    for group in ("jaxnet.fit", "jitted step", "NumPy float32, tuned"), ("fit, loss", "NumPy float32, the"):
        losses_at_end = [value for name, value in final.items() if name.startswith(group)]
        if max(losses_at_end) - min(losses_at_end) > 1e-3:
            raise SystemExit(f"the contenders do not do the same work: their last losses are {final}")
    ours = np.array(seconds["jaxnet.fit"])
    print(f"{'':29}{'median s':>9}{'min':>7}{'max':>7}{'us/step':>9}{'x fit':>7}{'first run':>11}{'loss':>9}")
    for name, values in seconds.items():
        array = np.array(values)
        median = float(np.median(array))
        print(
            f"{name:29}{median:9.2f}{array.min():7.2f}{array.max():7.2f}{median / options.steps * 1e6:9.0f}"
            f"{np.median(array / ours):7.2f}{first[name]:11.2f}{final[name]:9.5f}"
        )


if __name__ == "__main__":
    main()
