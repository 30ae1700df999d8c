"""Each function of the source: the NumPy reference against jaxnet, with golden values, under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxnet
import reference_numpy
from jaxnet import network

Y1 = np.array([0.1, 0.05, 0.6, 0.0, 0.05, 0.1, 0.0, 0.1, 0.0, 0.0])
Y2 = np.array([0.1, 0.05, 0.1, 0.0, 0.05, 0.1, 0.0, 0.6, 0.0, 0.0])
T = np.eye(10)[2]
DTYPES = [np.float64, np.float32]


def assert_same(ours, theirs, dtype):
    """To 1e-12 in float64; in float32 to 1e-6 of the array's largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == dtype
    if dtype == np.float64:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    else:
        atol = max(1e-6 * np.abs(theirs).max(), np.finfo(dtype).tiny)  # XLA flushes what is below to zero
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=atol)


def assert_jit_and_vmap_same(function, *args, dtype):
    plain = function(*args)
    assert_same(jax.jit(function)(*args), plain, dtype)
    stacked = jax.vmap(function)(*(jnp.stack([jnp.asarray(arg)] * 2) for arg in args))
    assert_same(stacked[1], plain, dtype)


SHAPES = [(1,), (1, 3), (3, 4), (2, 1, 3)]  # few, since every shape is compiled anew


def arrays(dtype, low=-30.0, high=30.0, rank=None):
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    shapes = [shape for shape in SHAPES if rank in (None, len(shape))]
    return st.sampled_from(shapes).flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))


@st.composite
def predictions_and_labels(draw, dtype):
    """Rows of probabilities, edges included, with integer labels."""
    logits = draw(arrays(dtype, -50, 50, rank=2))
    labels = draw(hnp.arrays(np.int32, len(logits), elements=st.integers(0, logits.shape[1] - 1)))
    return reference_numpy.softmax_by_row(logits).astype(dtype), labels


@pytest.mark.parametrize("module", [reference_numpy, jaxnet])
def test_golden_values_of_the_losses(module, x64):
    assert float(module.mean_squared_error(Y1, T)) == pytest.approx(0.09750000000000003, rel=1e-15)
    assert float(module.mean_squared_error(Y2, T)) == pytest.approx(0.5975, rel=1e-15)
    assert float(module.cross_entropy_error0(Y1, T)) == pytest.approx(0.510825457099338, rel=1e-15)
    assert float(module.cross_entropy_error0(Y2, T)) == pytest.approx(2.302584092994546, rel=1e-15)
    assert float(module.cross_entropy_error(Y1, T)) == pytest.approx(0.510825457099338, rel=1e-15)
    assert float(module.cross_entropy_label(Y2, np.array(2))) == pytest.approx(2.302584092994546, rel=1e-15)


@pytest.mark.parametrize("module", [reference_numpy, jaxnet])
def test_golden_values_of_numerical_differentiation(module):
    # Outside of any float64 context: jaxnet makes its own.
    assert module.numerical_diff(lambda x: 0.01 * x**2 + 0.1 * x, 10) == 0.2999999999986347
    gradient = module.numerical_gradient(lambda x: (x**2).sum(), np.array([3.0, 4.0]))
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, [6, 8], rtol=1e-10)
    minimum = module.gradient_descent(lambda x: (x**2).sum(), np.array([-3.0, 4.0]), lr=0.1, step_num=100)
    np.testing.assert_allclose(minimum, [-3 * 0.8**100, 4 * 0.8**100], rtol=1e-8)


def test_golden_shape_of_the_two_layer_network(rng):
    x = rng.standard_normal((100, 784))
    assert reference_numpy.TwoLayerNet(784, 100, 10).predict(x).shape == (100, 10)
    assert network.predict(network.init(jax.random.key(0), (784, 100, 10)), x).shape == (100, 10)


@pytest.mark.parametrize("module", ["reference_numpy", "jaxnet"])
def test_golden_shapes_of_mnist(module, mnist):
    load = reference_numpy.load_mnist if module == "reference_numpy" else jaxnet.datasets.load_mnist
    (x_train, t_train), (x_test, t_test) = load(normalize=True, one_hot_label=True)
    assert (x_train.shape, t_train.shape) == ((60000, 784), (60000, 10))
    assert (x_test.shape, t_test.shape) == ((10000, 784), (10000, 10))
    assert x_train.min() == 0 and x_train.max() == 1
    np.testing.assert_array_equal(t_test.argmax(axis=1), mnist[1][1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mean_squared_error", "cross_entropy_error0", "cross_entropy_error"])
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_losses_of_probabilities_and_one_hot_targets(name, dtype, data):
    y, labels = data.draw(predictions_and_labels(dtype))
    t = np.eye(y.shape[1], dtype=dtype)[labels]
    with jax.enable_x64(True):
        ours, theirs = getattr(jaxnet, name), getattr(reference_numpy, name)
        for rows in (slice(None), 0):  # a batch and a single example
            assert_same(ours(y[rows], t[rows]), theirs(y[rows], t[rows]), dtype)
        assert_jit_and_vmap_same(ours, y, t, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_cross_entropy_label(dtype, data):
    y, labels = data.draw(predictions_and_labels(dtype))
    with jax.enable_x64(True):
        theirs = reference_numpy.cross_entropy_label(y, labels)
        assert_same(jaxnet.cross_entropy_label(y, labels), theirs, dtype)
        assert_same(
            jaxnet.cross_entropy_label(y[0], labels[0]),
            reference_numpy.cross_entropy_label(y[:1], labels[:1]),
            dtype,
        )
        assert_jit_and_vmap_same(jaxnet.cross_entropy_label, y, labels, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_softmax_cross_entropy(dtype, data):
    logits = data.draw(arrays(dtype, -1000, 1000, rank=2))
    labels = data.draw(hnp.arrays(np.int32, len(logits), elements=st.integers(0, logits.shape[1] - 1)))
    t = np.eye(logits.shape[1], dtype=dtype)[labels]
    with jax.enable_x64(True):
        theirs = reference_numpy.cross_entropy_from_logits(logits, t)
        assert_same(jaxnet.softmax_cross_entropy(logits, labels), theirs, dtype)
        assert_same(jaxnet.softmax_cross_entropy(logits, t), theirs, dtype)
        assert_jit_and_vmap_same(jaxnet.softmax_cross_entropy, logits, labels, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jaxnet.sigmoid, reference_numpy.sigmoid),
        (jaxnet.sigmoid, reference_numpy.sigmoid_stable),
        (jaxnet.sigmoid_grad, lambda x: 0.25 / np.cosh(x / 2) ** 2),
        (jaxnet.softmax, reference_numpy.softmax_by_row),
        (lambda x: jaxnet.softmax(x, axis=None), reference_numpy.softmax),
        (jaxnet.tanh, np.tanh),
        (jaxnet.tanh_grad, lambda x: 1 / np.cosh(x) ** 2),
        (jaxnet.relu, lambda x: np.maximum(x, 0)),
        (jaxnet.relu_grad, lambda x: (x > 0).astype(x.dtype)),
    ],
    ids=["sigmoid", "stable", "sigmoid_grad", "softmax", "whole", "tanh", "tanh_grad", "relu", "relu_grad"],
)
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_activations(ours, theirs, dtype, data):
    x = data.draw(arrays(dtype))
    with jax.enable_x64(True):
        assert_same(ours(x), theirs(x.astype(np.float64)), dtype)
        assert_jit_and_vmap_same(ours, x, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_sigmoid_grad_of_the_reference(dtype, tolerance, data):
    # Of its largest value, 1/4: the reference's (1 - s) · s cancels in the tails, which jaxnet's does not.
    x = data.draw(arrays(dtype))
    with jax.enable_x64(True):
        ours = jaxnet.sigmoid_grad(x)
        np.testing.assert_allclose(ours, reference_numpy.sigmoid_grad(x), rtol=0, atol=tolerance / 4)


@given(x=arrays(np.float64, -3, 3))
@settings(deadline=None, max_examples=10)
def test_numerical_gradient_and_descent(x):
    def ours_f(v):
        return jnp.sum(jnp.sin(v) * v)

    def theirs_f(v):
        return np.sum(np.sin(v) * v)

    # The two sums round differently by an ulp of f, which 2h turns into about 1e-11.
    tolerance = 4 * x.size * np.finfo(float).eps * max(1.0, np.abs(x).max()) / 1e-4
    theirs = reference_numpy.numerical_gradient(theirs_f, x.copy())
    ours = jaxnet.numerical_gradient(ours_f, x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    descended = reference_numpy.gradient_descent(theirs_f, x.copy(), lr=0.01, step_num=5)
    np.testing.assert_allclose(
        jaxnet.gradient_descent(ours_f, x, lr=0.01, step_num=5), descended, rtol=0, atol=tolerance
    )
    with jax.enable_x64(True):
        for transformed in (
            jax.jit(lambda v: jaxnet.numerical_gradient(ours_f, v))(x),
            jax.vmap(lambda v: jaxnet.numerical_gradient(ours_f, v))(np.stack([x, x]))[1],
        ):
            np.testing.assert_allclose(transformed, ours, rtol=0, atol=tolerance)


@given(x=st.floats(-100, 100), t=st.floats(-100, 100))
def test_derivative_and_tangent_are_the_same_to_the_bit(x, t):
    f = reference_numpy.func
    assert jaxnet.numerical_diff(f, x) == reference_numpy.numerical_diff(f, x)
    assert jaxnet.tangent_line(f, x)(t) == reference_numpy.tangent_line(f, x)(t)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_layer_network(dtype, rng):
    theirs = reference_numpy.TwoLayerNet(
        7, 5, 3, weight_std=1.0, softmax=reference_numpy.softmax_by_row, rng=np.random.default_rng(1)
    )
    theirs.params = {name: p.astype(dtype) for name, p in theirs.params.items()}
    p = theirs.params
    params = (network.Dense(p["W1"], p["b1"]), network.Dense(p["W2"], p["b2"]))
    x = rng.standard_normal((20, 7)).astype(dtype)
    labels = rng.integers(3, size=20).astype(np.int32)
    t = np.eye(3, dtype=dtype)[labels]
    with jax.enable_x64(True):
        assert_same(network.predict(params, x), theirs.predict(x), dtype)
        assert_same(network.predict(params, x[0]), theirs.predict(x[:1])[0], dtype)
        assert_same(network.loss(params, x, labels), theirs.exact_loss(x, t), dtype)
        assert float(network.accuracy(params, x, labels)) == pytest.approx(theirs.accuracy(x, t), rel=1e-7)
        ours = network.backprop(params, x, labels)
        for got, name in zip(jax.tree.leaves(ours), ("W1", "b1", "W2", "b2"), strict=True):
            assert_same(got, theirs.gradient(x, t)[name], dtype)
        for function in (network.predict, network.loss, network.accuracy, network.backprop):
            args = (x,) if function is network.predict else (x, labels)
            plain = function(params, *args)
            stacked = jax.vmap(function, in_axes=(None, *[0] * len(args)))(
                params, *(np.stack([a, a]) for a in args)
            )
            jitted = jax.jit(function)(params, *args)
            for leaf, one, two in zip(*map(jax.tree.leaves, (plain, jitted, stacked)), strict=True):
                assert_same(one, leaf, dtype)
                assert_same(two[1], leaf, dtype)


def test_simple_net_is_one_layer_without_bias(x64):
    theirs = reference_numpy.SimpleNet(np.random.default_rng(0))
    params = (network.Dense(jnp.asarray(theirs.W)),)
    x, t = np.array([0.6, 0.9]), np.array([0, 0, 1])
    np.testing.assert_allclose(network.logits(params, x), theirs.predict(x), rtol=1e-14)
    np.testing.assert_allclose(network.loss(params, x, t), theirs.loss(x, t), atol=1e-6)
    np.testing.assert_allclose(network.backprop(params, x, t)[0].weight, theirs.gradient(x, t), atol=1e-6)
    assert network.backprop(params, x, t)[0].bias is None
