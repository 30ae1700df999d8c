import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet import network
from jaxnet._compiler import compiler_options
from jaxnet.network import Dense
from tests.helpers import assert_same_bits

KEY = jax.random.key(0)
PARAMS = network.init(KEY, (4, 3, 2))
X, T = np.ones((5, 4), np.float32), np.array([0, 1, 1, 0, 1])


def test_init_is_scaled_normal_with_zero_biases_and_only_of_its_key():
    params = network.init(KEY, (784, 50, 10), weight_std=0.01)
    weight = np.asarray(params[0].weight)
    assert weight.std() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean()) < 4 * 0.01 / np.sqrt(weight.size)
    assert not np.asarray(params[0].bias).any() and not np.asarray(params[1].bias).any()
    again, other = network.init(KEY, (784, 50, 10)), network.init(jax.random.key(1), (784, 50, 10))
    assert (np.asarray(again[0].weight) == weight).all()
    assert not (np.asarray(other[0].weight) == weight).any()
    assert not np.array_equal(np.asarray(params[1].weight)[:10, 0], weight[:10, 0])


def test_init_scaled_by_the_inputs():
    params = network.init(KEY, (400, 900, 10), weight_std=None)
    assert np.asarray(params[0].weight).std() == pytest.approx(1 / 20, rel=0.02)
    assert np.asarray(params[1].weight).std() == pytest.approx(1 / 30, rel=0.05)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_init_and_everything_after_it_in_the_dtype_asked_for(dtype):
    params = network.init(KEY, (4, 3, 2), dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    x = jnp.asarray(X, dtype)
    assert network.loss(params, x, T).dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(network.backprop(params, x, T))} == {jnp.dtype(dtype)}


def test_float64_where_it_is_on(x64):
    assert network.init(KEY, (4, 2))[0].weight.dtype == jnp.float64


def test_accuracy_counts_argmaxes():
    params = (Dense(jnp.eye(3)),)
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    assert float(network.accuracy(params, x, np.array([0, 1, 1, 2]))) == 0.75
    assert float(network.accuracy(params, x, np.eye(3)[[0, 1, 1, 2]])) == 0.75
    assert float(network.accuracy(params, x[0], 1)) == 0


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU's division is off by a rounding or two")
def test_accuracy_is_the_exact_share_also_compiled():
    hits = np.array([0] * 9250 + [1] * 750)
    x = np.tile(np.eye(2, dtype=np.float32)[0], (10_000, 1))
    # `make test` compiles most of the tests without, where this jaxlib has a choice.
    emitters = "xla_cpu_use_fusion_emitters"
    as_by_default = {emitters: True} if emitters in (compiler_options("rules") or {}) else None
    accuracy = jax.jit(network.accuracy, compiler_options=as_by_default)((Dense(jnp.eye(2)),), x, hits)
    assert np.asarray(accuracy) == np.float32(0.925)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        ((4,), {}, ValueError, "two or more positive integers"),
        ((4, 0, 2), {}, ValueError, r"positive integers, input first, got \(4, 0, 2\)"),
        ((4, 2.0), {}, ValueError, "positive integers"),
        ((4, True), {}, ValueError, "positive integers"),
        ((4, 2), {"weight_std": -1}, ValueError, "weight_std must be finite and not negative, got -1"),
        ((4, 2), {"weight_std": float("nan")}, ValueError, "weight_std must be finite"),
        ((4, 2), {"dtype": int}, TypeError, "dtype must be a floating-point type, got int32"),
        (
            (4, 2),
            {"key": "seed"},
            TypeError,
            "key must be of .*, or a seed, got 'seed'",
        ),
    ],
)
def test_bad_init(unchecked, sizes, options, error, message):
    with pytest.raises(error, match=message):
        network.init(**{"key": KEY, "sizes": sizes} | options)


def test_a_seed_is_a_key():
    expected = network.init(jax.random.key(7), (4, 2))
    for key in (7, jax.random.PRNGKey(7)):
        assert_same_bits(network.init(key, (4, 2)), expected)


@pytest.mark.parametrize("function", [network.loss, network.accuracy, network.backprop])
@pytest.mark.parametrize(
    ("params", "x", "t", "error", "message"),
    [
        (PARAMS, X[:, :3], T, ValueError, r"x must have shape \[n, 4\] or \[4\], got \[5, 3\]"),
        (PARAMS, X[None], T, ValueError, r"x must have shape \[n, 4\] or \[4\], got \[1, 5, 4\]"),
        (PARAMS, X[:0], T[:0], ValueError, "the batch must not be empty"),
        (
            PARAMS,
            X,
            T[:4],
            ValueError,
            r"integer labels of shape \[5\] or one-hot rows of shape \[5, 2\], got",
        ),
        (PARAMS, X, T + 1, ValueError, "labels must be in 0..1, got 2 at index 1"),
        (PARAMS, X, T.astype(float), TypeError, "labels must be integers, got float64"),
        (PARAMS, X, np.ones((5, 2)), ValueError, "got a row that sums to 2 at index 0"),
        (PARAMS, X, np.ones((5, 3)), ValueError, "got shape"),
        ((), X, T, ValueError, "at least one Dense layer"),
        ({"w": 1}, X, T, TypeError, "params must be a tuple of Dense layers, got <class 'dict'>"),
        ([np.ones((4, 3))], X, T, TypeError, r"a tuple of Dense layers, got \['ndarray'\]"),
        (
            (Dense(np.ones(4)),),
            X,
            T,
            ValueError,
            r"params\[0\].weight must have shape \[4, outputs\], got \[4\]",
        ),
        ((Dense(np.ones((4, 2)), np.ones(3)),), X, T, ValueError, r"bias must have shape \[2\], got \[3\]"),
        (PARAMS, np.full((5, 4), "a"), T, TypeError, "x must be an array of real numbers, got <U1"),
        (PARAMS, None, T, TypeError, "x must be an array of real numbers, got NoneType"),
        (
            (PARAMS[0], PARAMS[0]),
            X,
            T,
            ValueError,
            r"params\[1\].weight must have shape \[3, outputs\], got",
        ),
    ],
)
def test_bad_input(unchecked, function, params, x, t, error, message):
    with pytest.raises(error, match=message) as caught:
        function(params, x, t)
    assert "\n" not in str(caught.value)


def test_unknown_activation(unchecked):
    with pytest.raises(ValueError, match="activation must be one of sigmoid, relu, tanh, got 'selu'"):
        network.logits(PARAMS, X, activation="selu")


@pytest.mark.parametrize("one_hot", [False, True])
def test_backprop_of_the_weighted_loss(one_hot, x64, rng):
    params = network.init(jax.random.key(0), (4, 5, 3), weight_std=0.5)
    x, t = rng.standard_normal((9, 4)), rng.integers(3, size=9)
    t = np.eye(3)[t] if one_hot else t
    weights = {"class_weight": np.array([0.5, 2.0, 1.0]), "sample_weight": rng.random(9)}
    by_hand = network.backprop(params, x, t, **weights)
    numerical = jaxnet.numerical_gradient(lambda p: network.loss(p, x, t, **weights), params)
    for one, other in zip(jax.tree.leaves(by_hand), jax.tree.leaves(numerical), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


def test_bfloat16_computes_coarsely_and_keeps_the_params_type(rng):
    params = network.init(jax.random.key(0), (4, 5, 3), weight_std=0.5)
    x, t = rng.standard_normal((9, 4)).astype(np.float32), rng.integers(3, size=9)
    exact, coarse = network.logits(params, x), network.logits(params, x, dtype=jnp.bfloat16)
    assert coarse.dtype == np.float32
    assert 1e-5 < abs(exact - coarse).max() < 0.03  # eight bits of mantissa
    np.testing.assert_array_equal(coarse, coarse.astype(jnp.bfloat16).astype(np.float32))
    grads = jax.grad(network.loss)(params, x, t, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}
    for one, other in zip(
        jax.tree.leaves(grads), jax.tree.leaves(jax.grad(network.loss)(params, x, t)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=0.01)
    with pytest.raises(TypeError, match="dtype must be a floating-point type, got int32"):
        network.logits(params, x, dtype=np.int32)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2), (3, 4, 5, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_rescaled_folds_other_units_into_the_weights(sizes, bias, rng, x64):
    params = network.init(jax.random.key(0), sizes, weight_std=1.0, bias=bias)
    x, mean, std = 9 + rng.standard_normal((6, 3)), np.array([8.0, 9.0, 10.0]), np.array([1.0, 2.0, 0.5])
    expected = 5 * network.logits(params, (x - mean) / std) - 2
    found = network.rescaled(params, 5, -2, input_mean=mean, input_std=std)
    np.testing.assert_allclose(network.logits(found, x), expected, rtol=1e-12)
    of_numpy = network.rescaled(jax.tree.map(np.asarray, params), 5, -2, input_mean=mean, input_std=std)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(of_numpy))
    for wrong, message in (
        (
            {"input_mean": mean[:2]},
            r"input_mean must be a number or one for each of 3 features, got shape \[2\]",
        ),
        ({"input_std": np.array([1.0, 0.0, 1.0])}, r"input_std must be positive, got \[1.0, 0.0, 1.0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            network.rescaled(params, **wrong)
