import importlib.util
import os
import signal
import subprocess
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import config, install_import_hook

# Shapes and dtypes in jaxnet's signatures are checked at every call in the tests; but where jaxprs are walked
# through, which is all Python, or functions made by the thousand: there it costs half of the tests' time.
_PACKAGE = Path(importlib.util.find_spec("jaxnet").origin).parent
_WALKS = {
    "analytic",
    "differences",
    "evaluate",
    "gradients",
    "interpret",
    "locate",
    "operations",
    "perturb",
    "pieces",
    "rounding",
    "rounds",
    "slopes",
    "widen",
}
_CHECKED = [
    ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts)
    for path in _PACKAGE.rglob("*.py")
    if path.stem not in _WALKS | {"__init__", "__main__"}
]
with install_import_hook(_CHECKED, "beartype.beartype"):
    import jaxnet
    from jaxnet import datasets

    for name in jaxnet.__all__:  # each is imported when it is first used
        getattr(jaxnet, name)

# A GPU's TF32 is no float32.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
jax.config.update("jax_default_matmul_precision", os.environ["JAX_DEFAULT_MATMUL_PRECISION"])
# A shell that ignores Ctrl-C, as those of nohup and cron do, would hand that on to the tests' processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)


def pytest_collection_modifyitems(config, items):
    """Leave out what only `make test-all` runs: what is marked so, and of long tables all but some cases."""
    if os.environ.get("JAXNET_ALL"):
        return
    tables, left_out = defaultdict(list), set()
    for item in items:
        if item.get_closest_marker("rest"):
            left_out.add(item)
        elif sampled := item.get_closest_marker("sampled"):
            tables[item.path, item.originalname, sampled.args].append(item)
    for (*_, (count,)), cases in tables.items():
        left_out |= {*cases} - {cases[n] for n in np.linspace(0, len(cases) - 1, count).round().astype(int)}
    items[:] = [item for item in items if item not in left_out]


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
    hand out. Where it is there but damaged, or not where JAXNET_DATA_DIR says, the tests fail.
    """
    try:
        return datasets.load_mnist()
    except FileNotFoundError as error:
        if "JAXNET_DATA_DIR" in os.environ:
            raise
        pytest.skip(f"needs MNIST: {error}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="module")
def compiled_once(shared):
    """JAX's cache on the disk, so that runs of one kind compile once, whatever process they are in."""
    cache = {"jax_compilation_cache_dir": str(shared), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in cache}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The digits as a file, to spare each process scikit-learn."""
    (x_train, t_train), (x_test, t_test) = datasets.load("digits")
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=x_train, t_train=t_train, x_test=x_test, t_test=t_test)
    return path


@pytest.fixture
def start():
    """`subprocess.Popen` with its output piped; what still runs after the test is ended."""
    with ExitStack() as processes:

        def start(command, **options):
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = processes.enter_context(subprocess.Popen(command, **(pipes | options)))
            processes.callback(process.kill)
            return process

        yield start
