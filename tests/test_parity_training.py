"""Training runs of the NumPy reference and of jaxnet, on real MNIST."""

import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import jaxnet
import reference_numpy
from jaxnet import network, training

NAMES = ("W1", "b1", "W2", "b2")


def test_600_batches_of_mnist_from_the_same_start(mnist, rng):
    (x, labels), _ = mnist
    x, t = x.astype(np.float64), np.eye(10)[labels]
    net = reference_numpy.TwoLayerNet(784, 50, 10, softmax=reference_numpy.softmax_by_row, rng=rng)
    batches = rng.integers(len(x), size=(600, 100))
    compared = []
    with jax.enable_x64(True):
        p = net.params
        params = (
            network.Dense(p["W1"].copy(), p["b1"].copy()),
            network.Dense(p["W2"].copy(), p["b2"].copy()),
        )
        steps = reference_numpy.sgd_steps(net, x, t, batches=batches)

        def compare(stretch):
            for loss in stretch.loss:
                step, published = next(steps)
                x_batch, t_batch = x[batches[step]], t[batches[step]]
                probability = net.predict(x_batch)[t_batch == 1]
                effect = np.mean(np.log1p(1e-7 / probability))  # of the 1e-7 in the published loss
                assert abs(loss - net.exact_loss(x_batch, t_batch)) < 1e-10
                assert 0 < loss - published < 1.001 * effect
            for name, leaf in zip(NAMES, jax.tree.leaves(stretch.state.params), strict=True):
                np.testing.assert_allclose(leaf, net.params[name], rtol=0, atol=1e-10)
            compared.append(int(stretch.state.step))

        jaxnet.fit(
            network.loss, params, (x, labels), batches=batches, optimizer=optax.sgd(0.1), stretch=100,
            loss_after_update=True, callbacks=[compare], progress=False,
        )  # fmt: skip
    assert compared == [100, 200, 300, 400, 500, 600]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.rest) for seed in (1, 2))])
def test_the_source_run_on_mnist_learns(mnist, seed):
    train, test = mnist
    init_key, key = jax.random.split(jax.random.key(seed))
    params = network.init(init_key, (784, 50, 10))
    result = jaxnet.fit(
        network.loss,
        params,
        train,
        test=test,
        key=key,
        metrics={"accuracy": network.accuracy},
        progress=False,
    )
    assert float(network.accuracy(result.params, *test)) >= 0.94
    assert result.history.loss.shape == (10_000,)
    np.testing.assert_array_equal(result.history.eval_step, [*range(0, 10_000, 600), 9_999])
    # The last recorded accuracy is that of the end, which a NumPy count of hits confirms.
    final = float(network.accuracy(result.params, *test))
    assert result.history.test["accuracy"][-1] == pytest.approx(final, abs=1e-6)
    logits = np.asarray(network.logits(result.params, test[0]))
    hits = (logits.argmax(axis=1) == test[1]).mean()
    assert float(network.accuracy(result.params, *test)) == pytest.approx(hits, abs=1e-6)


def test_the_published_softmax_does_not_learn(mnist):
    """The published backward pass in JAX: `(y - t) / n` with y normalised over the whole batch."""
    (x, labels), test = mnist

    @jax.custom_vjp
    def published_loss(logits, t):
        return jaxnet.cross_entropy_label(jaxnet.softmax(logits, axis=None), t)

    def forward(logits, t):
        return published_loss(logits, t), (logits, t)

    def backward(residuals, cotangent):
        logits, t = residuals
        dz = (jaxnet.softmax(logits, axis=None) - jax.nn.one_hot(t, 10)) / len(logits)
        return cotangent * dz, None

    published_loss.defvjp(forward, backward)

    def loss(params, x, t):
        return published_loss(network.logits(params, x), t)

    params = network.init(jax.random.key(0), (784, 50, 10))
    result = jaxnet.fit(loss, params, (x, labels), steps=6000, progress=False)
    assert 0.10 < float(network.accuracy(result.params, *test)) < 0.12
    assert result.history.loss[-1] > 10 > result.history.loss[0]


DIGEST = """
import hashlib, jax, jaxnet
from jaxnet import datasets, network
train, test = datasets.load_digits()
result = jaxnet.fit(network.loss, network.init(jax.random.key(3), (64, 20, 10)), train, test=test,
                    key=jax.random.key(4), steps=500, metrics={"accuracy": network.accuracy}, progress=False)
digest = hashlib.sha256()
for leaf in (*jax.tree.leaves(result.params), result.history.loss, result.history.test["accuracy"]):
    digest.update(leaf.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.rest
def test_same_seed_same_bits_in_two_processes():
    digests = {
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


@pytest.mark.parametrize("sampling", ["replacement", "shuffle", "blocks"])
def test_explicit_batches_are_the_drawn_ones(sampling, rng):
    x, t = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(3, size=50)
    params = network.init(jax.random.key(0), (4, 3, 3))
    key = jax.random.key(5)
    batches = training.draw_batches(key, 0, 40, 8, 50, sampling)
    drawn = jaxnet.fit(
        network.loss, params, (x, t), key=key, steps=40, batch_size=8, sampling=sampling, progress=False
    )
    given = jaxnet.fit(network.loss, params, (x, t), batches=batches, progress=False)
    np.testing.assert_array_equal(drawn.history.loss, given.history.loss)
