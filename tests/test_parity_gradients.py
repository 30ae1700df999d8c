"""The gradient of the network's loss, five ways and more, at several depths and activations."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp

import jaxnet
import reference_numpy
from jaxnet import network

BATCH = 7
ACTIVATIONS = {"sigmoid": expit, "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}
NAMES = ("W1", "b1", "W2", "b2")


@pytest.fixture(autouse=True)
def _float64(x64):
    pass


def make(sizes, *, bias=True, seed=0):
    rng = np.random.default_rng(seed)
    params = tuple(
        network.Dense(
            jnp.asarray(rng.standard_normal((inputs, outputs))),
            jnp.asarray(rng.standard_normal(outputs)) if bias else None,
        )
        for inputs, outputs in pairwise(sizes)
    )
    labels = rng.integers(sizes[-1], size=BATCH)
    return params, rng.standard_normal((BATCH, sizes[0])), labels


def numpy_loss(params, x, labels, activation):
    """The loss once more, in NumPy and scipy, sharing no code with either package."""
    a = x
    for index, layer in enumerate(params):
        z = (ACTIVATIONS[activation](a) if index else a) @ layer.weight
        a = z if layer.bias is None else z + layer.bias
    return np.mean(logsumexp(a, axis=1) - a[np.arange(len(a)), labels])


def assert_leaves_close(ours, theirs, tolerance):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(4, 3), (5, 4, 3), (4, 5, 4, 3), (3, 4, 4, 4, 2)])
def test_all_gradients_agree_in_all_elements(sizes, activation, one_hot, bias):
    params, x, labels = make(sizes, bias=bias)
    t = np.eye(sizes[-1])[labels] if one_hot else labels

    def loss(p):
        return network.loss(p, x, t, activation=activation)

    reverse = jax.grad(loss)(params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    directions = jax.vmap(unravel)(jnp.eye(flat.size))
    forward = unravel(jax.vmap(lambda d: jax.jvp(loss, (params,), (d,))[1])(directions))
    by_hand = network.backprop(params, x, t, activation=activation)
    assert_leaves_close(reverse, forward, 1e-12)
    assert_leaves_close(reverse, by_hand, 1e-12)
    assert_leaves_close(
        reverse,
        jax.jit(network.backprop, static_argnames="activation")(params, x, t, activation=activation),
        1e-12,
    )
    assert_leaves_close(reverse, jaxnet.numerical_gradient(loss, params), 1e-7)
    mutable = jax.tree.map(np.array, params)
    for leaf, expected in zip(jax.tree.leaves(mutable), jax.tree.leaves(reverse), strict=True):
        numerical = reference_numpy.numerical_gradient(
            lambda _: numpy_loss(mutable, x, labels, activation), leaf
        )
        np.testing.assert_allclose(numerical, expected, rtol=0, atol=1e-7)


def two_layer_net(params, softmax):
    net = reference_numpy.TwoLayerNet(5, 4, 3, softmax=softmax)
    net.params = {name: np.array(leaf) for name, leaf in zip(NAMES, jax.tree.leaves(params), strict=True)}
    return net


def test_the_reference_network_agrees():
    params, x, labels = make((5, 4, 3))
    t = np.eye(3)[labels]
    net = two_layer_net(params, reference_numpy.softmax_by_row)
    reverse = jax.tree.leaves(jax.grad(network.loss)(params, x, t))
    assert_leaves_close(reverse, [net.gradient(x, t)[name] for name in NAMES], 1e-12)
    # Its loss has the 1e-7 in the logarithm, which shows less than the numerical error while no y is tiny.
    assert net.predict(x)[t == 1].min() > 0.01
    assert_leaves_close(reverse, [net.numerical_gradient(x, t)[name] for name in NAMES], 1e-6)
    exact = [
        reference_numpy.numerical_gradient(lambda _: net.exact_loss(x, t), net.params[name]) for name in NAMES
    ]
    assert_leaves_close(reverse, exact, 1e-7)


@pytest.mark.parametrize("examples", [1, BATCH])
def test_the_published_softmax_fails_the_check_on_a_batch_only(examples):
    params, x, labels = make((5, 4, 3))
    x, t = x[:examples], np.eye(3)[labels[:examples]]
    net = two_layer_net(params, reference_numpy.softmax)
    by_hand = [net.gradient(x, t)[name] for name in NAMES]
    numerical = [net.numerical_gradient(x, t)[name] for name in NAMES]

    def published_loss(p):
        return jaxnet.cross_entropy_error(jaxnet.softmax(network.logits(p, x), axis=None), t)

    # Numerical differentiation and autodiff of the published loss agree: the hand-written gradient is wrong.
    assert_leaves_close(jax.tree.leaves(jax.grad(published_loss)(params)), numerical, 1e-7)
    apart = max(np.abs(one - other).max() for one, other in zip(by_hand, numerical, strict=True))
    assert apart < 1e-6 if examples == 1 else apart > 0.1


@pytest.mark.parametrize("sizes", [(4, 3), (5, 4, 3)])
def test_a_single_example_is_a_batch_of_one(sizes):
    params, x, labels = make(sizes)
    single = network.backprop(params, x[0], labels[0])
    assert_leaves_close(single, network.backprop(params, x[:1], labels[:1]), 1e-15)
    assert_leaves_close(single, jax.grad(network.loss)(params, x[0], labels[0]), 1e-12)


def test_soft_targets_have_an_exact_gradient_too():
    params, x, _ = make((5, 4, 3))
    t = np.random.default_rng(1).dirichlet(np.ones(3), BATCH).astype(np.float32)  # sums to 1 but for rounding
    assert_leaves_close(jax.grad(network.loss)(params, x, t), network.backprop(params, x, t), 1e-12)


def test_the_exact_loss_keeps_its_gradient_where_the_true_class_is_improbable():
    """Where the source's is wrong by y / (y + 1e-7): the closed form at y = 1e-20."""
    logits = jnp.array([[np.log(1e-20), 0.0]])
    np.testing.assert_allclose(jax.grad(jaxnet.softmax_cross_entropy)(logits, [0]), [[-1, 1]], rtol=1e-12)
    published = jax.grad(lambda z: jaxnet.cross_entropy_error(jaxnet.softmax(z), [[1.0, 0.0]]))(logits)
    assert abs(published[0, 0]) < 1e-12
