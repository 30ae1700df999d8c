import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet


def test_sigmoid_neither_overflows_nor_loses_its_tail():
    x = np.array([-1e30, -1000, -89, -50, 0, 50, 1e30], np.float32)
    y = np.asarray(jaxnet.sigmoid(x))
    assert (y[0], y[4], y[6]) == (0, 0.5, 1)
    np.testing.assert_allclose(y[3], np.exp(np.float64(-50)), rtol=1e-6)


def test_published_softmax_over_the_whole_array_is_not_a_distribution_per_row():
    x = np.zeros((4, 5), np.float32)
    np.testing.assert_allclose(jaxnet.softmax(x).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(jaxnet.softmax(x, axis=None).sum(axis=1), 0.25, rtol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "relu", "tanh"])
def test_derivatives_are_those_of_autodiff(name, x64):
    x = np.concatenate([np.linspace(-40, 40, 81), [1e-8, -1e-8]])
    by_jax = jax.vmap(jax.grad(getattr(jaxnet, name)))(jnp.asarray(x))
    # Autodiff's 1 - tanh² and (1 - s) · s have a few units in the last place of 1 as their error.
    np.testing.assert_allclose(getattr(jaxnet, f"{name}_grad")(x), by_jax, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept(dtype):
    x = jnp.ones(3, dtype)
    for name in ("sigmoid", "sigmoid_grad", "relu", "relu_grad", "tanh", "tanh_grad", "softmax"):
        assert getattr(jaxnet, name)(x).dtype == dtype


def test_integers_and_lists_are_taken_as_floats():
    assert jaxnet.softmax([0, 0]).tolist() == [0.5, 0.5]
    assert jaxnet.sigmoid(np.array([0])).dtype == jnp.float32


def test_bad_input(unchecked):
    with pytest.raises(TypeError, match="x must be real, got complex64"):
        jaxnet.sigmoid(jnp.ones(2, jnp.complex64))
    with pytest.raises(ValueError, match=r"axis must be None or in -2\.\.1 for shape"):
        jaxnet.softmax(np.zeros((2, 2)), axis=2)
