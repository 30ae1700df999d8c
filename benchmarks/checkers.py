"""Gradient checkers side by side, and the checker's speed: `python -m benchmarks.checkers`.

On the catalogue: how many wrong gradients each catches, how many right ones it calls wrong, and its time.
`jax.test_util.check_grads` and torch's `gradcheck` get a hand-written gradient as the backward pass of the
function, the usual way, and keep their default tolerances. torch, if it is installed, gets the functions of
one array through a torch.autograd.Function, in float64, as its gradcheck wants.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import reference_numpy
from benchmarks.gradient_catalogue import CASES, Case
from jaxnet import check_gradients, datasets, network


def wrapped(case: Case) -> Callable:
    """The function with the hand-written gradient as its backward pass."""
    if case.candidate is None:
        return case.f
    g = jax.custom_vjp(case.f)

    def backward(args: Any, cotangent: Any) -> tuple:
        grads = case.candidate(*args) if callable(case.candidate) else case.candidate
        scaled = jax.tree.map(lambda leaf, like: jnp.asarray(leaf * cotangent, like.dtype), grads, args[0])
        return scaled, *(jnp.zeros_like(arg) for arg in args[1:])

    g.defvjp(lambda *args: (case.f(*args), args), backward)
    return g


def by_jaxnet(case: Case) -> bool:
    candidates = None if case.candidate is None else {"by hand": case.candidate}
    return check_gradients(case.f, *case.args, candidates=candidates).passed


def by_check_grads(case: Case) -> bool:
    with jax.enable_x64(True):
        f = wrapped(case)
        modes = ["rev"]
        try:
            check_grads(lambda first: f(first, *case.args[1:]), case.args[:1], order=1, modes=modes)
        except AssertionError:
            return False
        return True


def by_torch(case: Case) -> bool:
    import torch

    if len(case.args) != 1 or not isinstance(case.args[0], np.ndarray) or np.ndim(case.f(*case.args)):
        raise NotImplementedError
    with jax.enable_x64(True):
        f = wrapped(case)

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                return torch.tensor(float(f(jnp.asarray(x.detach().numpy()))), dtype=torch.float64)

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                (x,) = ctx.saved_tensors
                return gradient * torch.tensor(np.array(jax.grad(f)(jnp.asarray(x.detach().numpy()))))

        x = torch.tensor(case.args[0], dtype=torch.float64, requires_grad=True)
        return bool(torch.autograd.gradcheck(Function.apply, (x,), raise_exception=False))


def accuracy() -> None:
    print(f"{'':24}{'caught':>10}{'false alarms':>14}{'not expressible':>17}{'s each':>8}")
    for name, checker in (
        ("jaxnet", by_jaxnet),
        ("jax check_grads", by_check_grads),
        ("torch gradcheck", by_torch),
    ):
        caught = alarms = left = right = wrong = 0
        start = time.perf_counter()
        for case in CASES:
            try:
                passed = checker(case)
            except ImportError:
                print(f"{name:24}not installed")
                break
            except (NotImplementedError, TypeError, ValueError):  # the checker cannot be given this function
                left += 1
                continue
            right += case.right
            wrong += not case.right
            alarms += case.right and not passed
            caught += not case.right and not passed
        else:
            each = (time.perf_counter() - start) / max(1, len(CASES) - left)
            print(f"{name:24}{f'{caught}/{wrong}':>10}{f'{alarms}/{right}':>14}{left:>17}{each:>8.2f}")


def timed(function: Callable[[], Any], runs: int = 2) -> float:
    """The last of several runs: the first ones compile."""
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    return seconds


def speed() -> None:
    rng = np.random.default_rng(0)
    try:
        (images, labels), _ = datasets.load_mnist()
        x, t = images[:100].astype(np.float64), labels[:100]
    except FileNotFoundError:
        x, t = rng.random((100, 784)), rng.integers(10, size=100)
    net = reference_numpy.TwoLayerNet(784, 50, 10, softmax=reference_numpy.softmax_by_row, rng=rng)
    p = net.params
    leaves: Any = [p[name] for name in ("W1", "b1", "W2", "b2")]
    params = network.Dense(*leaves[:2]), network.Dense(*leaves[2:])
    ours = timed(lambda: jax.device_get(network.numerical_gradient(params, x, t)))
    start = time.perf_counter()
    net.numerical_gradient(x, np.eye(10)[t])
    theirs = time.perf_counter() - start
    print(f"network.numerical_gradient: {ours:.2f} s, the reference {theirs:.1f} s: {theirs / ours:.0f} x")
    candidates = {"backprop": network.backprop}
    check = timed(lambda: check_gradients(network.loss, params, x, t, candidates=candidates).matrix)
    print(f"the exhaustive check of 784-50-10, second run: {check:.1f} s")
    vector = rng.standard_normal(10_000)

    def function(v: Any) -> Any:
        return jnp.mean(jnp.tanh(v) * v**2)

    generic = timed(lambda: check_gradients(function, vector).matrix)
    print(f"the exhaustive check of a function of 10,000 elements, second run: {generic:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("accuracy", "speed"))
    options = parser.parse_args()
    if options.only != "speed":
        accuracy()
    if options.only != "accuracy":
        speed()


if __name__ == "__main__":
    main()
