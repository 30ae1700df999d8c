"""The command `jaxnet check`."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import network
from jaxnet.activations import softmax
from jaxnet.cli.problem import load
from jaxnet.cli.settings import Check
from jaxnet.gradcheck import GradientReport, check_gradients
from jaxnet.losses import cross_entropy_error

_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


def run(options: Check) -> int:
    """Print the report; return 0 where it passes, 1 where it fails, 3 where it is inconclusive."""
    if options.target is not None:
        report, reason = _check_own(options.target), ""
    elif options.published_softmax:
        report, reason = _check_published(options)
    else:
        candidates = {"backprop": partial(network.backprop, activation=options.activation)}
        loss = partial(network.loss, activation=options.activation)
        report = check_gradients(loss, *_network(options), candidates=candidates)
        reason = ""
    print(report, reason, sep="")
    return _CODES[report.verdict]


def _network(options: Check) -> tuple[network.Params, np.ndarray, np.ndarray]:
    """Return float64 parameters and a batch of real examples."""
    ((x, t), _), classes = load(options.data)
    rows = np.random.default_rng(options.seed).permutation(len(x))[: options.batch_size]
    sizes = (x.shape[1], *options.hidden, classes)
    params = network.init(jax.random.key(options.seed), sizes, weight_std=options.weight_std)
    print(f"{'-'.join(map(str, sizes))}, {len(rows)} examples of {options.data}", flush=True)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    return params, x[rows].astype(np.float64), t[rows]


def _check_published(options: Check) -> tuple[GradientReport, str]:
    """Return the report, and why it fails."""
    params, x, t = _network(options)
    logits = partial(network.logits, activation=options.activation)

    def one_hot(t: Any) -> Any:
        return (jnp.asarray(t)[:, None] == jnp.arange(params[-1].weight.shape[1])).astype(float)

    def published_loss(params: network.Params, x: Any, t: Any) -> Any:
        return cross_entropy_error(softmax(logits(params, x), axis=None), one_hot(t))

    def published_backprop(params: network.Params, x: Any, t: Any) -> Any:
        z, back = jax.vjp(lambda p: logits(p, x), params)
        return back((softmax(z, axis=None) - one_hot(t)) / len(t))[0]  # the source's dz

    candidates = {"published backprop": published_backprop}
    report = check_gradients(published_loss, params, x, t, candidates=candidates)
    mean = float(softmax(logits(params, x), axis=None).sum(axis=1).mean())
    reason = (
        "\n\nthe published softmax divides by the sum over the whole batch: the probabilities of\n"
        f"an example sum to about {mean:.2g} = 1/{len(t)}, not to 1. The published backward pass,\n"
        "dz = (y - t) / n, is the gradient for a softmax of each row: the network is trained by\n"
        "something else than the gradient of its loss, and does not learn.\n"
        "jaxnet's softmax takes each row by itself: jaxnet check"
    )
    return report, reason if report.verdict == "fail" else ""


def _check_own(target: str) -> GradientReport:
    path, _, name = target.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError(f"expected FILE.py:NAME, got {target!r}")
    module = _import(Path(path))
    f = getattr(module, name, None)
    if not callable(f):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{path} must define a function {name}, got {', '.join(public) or 'no function'}")
    make_args = getattr(module, f"{name}_args", None)
    if not callable(make_args):
        raise ValueError(f"{path} must define a function {name}_args() that returns the arguments of {name}")
    candidate = getattr(module, f"{name}_gradient", None)
    with _user_code(target):
        args = make_args()
        return check_gradients(
            f,
            *(args if isinstance(args, tuple) else (args,)),
            candidates={} if candidate is None else {f"{name}_gradient": candidate},
        )


@contextmanager
def _user_code(where: str) -> Iterator[None]:
    """Say in one line, as the command promises, whatever a user's code raises: it can be any exception."""
    try:
        yield
    except (Exception, SystemExit) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", [])[-1:])
        raise ValueError(f"{where}: {type(error).__name__}: {error}{notes}") from error


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"expected a Python file, got {path}, which there is not")
    name = f"jaxnet_check_{path.stem}"  # its own: a file may be called numpy.py
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        with _user_code(f"{path} cannot be imported"):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
