import jax
import numpy as np
import pytest
from jaxtyping import config, install_import_hook

# Shapes and dtypes in jaxnet's signatures are checked at every call in the tests.
with install_import_hook("jaxnet", "beartype.beartype"):
    from jaxnet import datasets


@pytest.fixture
def unchecked():
    """Calls with shapes and types that the signature forbids, to reach the library's own errors."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def mnist():
    """((x_train, t_train), (x_test, t_test)) with labels.

    Skips, and says so, only on a machine with neither the files nor a network: MNIST is not the project's to
    hand out. Where it is there but damaged, the tests fail.
    """
    try:
        return datasets.load_mnist()
    except FileNotFoundError as error:
        pytest.skip(f"needs MNIST: {error}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
