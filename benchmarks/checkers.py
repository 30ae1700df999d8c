"""Gradient checkers side by side, and the checker's speed: `python -m benchmarks.checkers`.

On two catalogues: how many wrong gradients each catches, how many right ones it calls wrong, what it cannot
decide or raises on, and its time. `jax.test_util.check_grads` and torch's `gradcheck` get a hand-written
gradient as the backward pass of the function, the usual way, and keep their default tolerances. torch, if it
is installed, gets the functions of one array through a torch.autograd.Function, in float64, as its gradcheck
wants. The second catalogue is that of the tests (tests/gradcheck/people.py), functions as people write them,
each in float32 and float64, with its own gradient and with one leaf of it 2 % too large.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import reference_numpy
from benchmarks.gradient_catalogue import CASES, Case
from jaxnet import check_gradients, datasets, network, numerical_gradient


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


class Counted(NamedTuple):
    """What a checker made of a catalogue."""

    caught: int
    wrong: int
    alarms: int
    right: int
    undecided: int
    exceptions: int
    seconds: list[float]


def people(checker: str, most: int | None) -> Counted:
    """Run a checker over the second catalogue."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "gradcheck"))
    from people import CASES as PEOPLE  # type: ignore[import-not-found]
    from people import right_gradient, wrong_gradient

    caught = wrong = alarms = right = undecided = exceptions = 0
    seconds = []
    for case in PEOPLE[:most]:
        for dtype in (np.float32, np.float64):
            for make, is_right in ((right_gradient, True), (wrong_gradient, False)):
                right, wrong = right + is_right, wrong + (not is_right)
                start = time.perf_counter()
                try:
                    verdict = _people_verdict(checker, case, dtype, make(case, dtype))
                except Exception as error:  # what a checker raises on is what is counted
                    verdict = f"{type(error).__name__}: {error}".splitlines()[0]
                    exceptions += 1
                seconds.append(time.perf_counter() - start)
                caught += not is_right and verdict == "fail"
                alarms += is_right and verdict == "fail"
                undecided += verdict == "inconclusive"
                expected = "pass" if is_right else "fail"
                if verdict != expected:
                    side = "right" if is_right else "wrong"
                    print(f"  {checker}: {case.name}, {np.dtype(dtype).name}, {side}: {verdict}", flush=True)
    return Counted(caught, wrong, alarms, right, undecided, exceptions, seconds)


def _people_verdict(checker: str, case: Any, dtype: Any, gradient: Callable) -> str:
    f, args = case.build(dtype)
    if checker == "jaxnet":
        return check_gradients(f, *args, argnums=case.argnums, candidates={"hand": gradient}).verdict
    with jax.enable_x64(dtype is np.float64):
        numbers = [case.argnums] if isinstance(case.argnums, int) else list(case.argnums)

        @jax.custom_vjp
        def g(*some: Any) -> Any:
            full = list(args)
            for n, value in zip(numbers, some, strict=True):
                full[n] = value
            return f(*full)

        def forward(*some: Any) -> Any:
            return g(*some), some

        def backward(some: Any, cotangent: Any) -> Any:
            full = list(args)
            for n, value in zip(numbers, some, strict=True):
                full[n] = value
            found = gradient(*full)
            parts = (found,) if isinstance(case.argnums, int) else found
            return jax.tree.map(lambda leaf: leaf * cotangent, tuple(parts))

        g.defvjp(forward, backward)
        try:
            check_grads(g, tuple(args[n] for n in numbers), order=1, modes=["rev"])
        except AssertionError:
            return "fail"
        return "pass"


def second_catalogue(most: int | None) -> None:
    print(f"{'':24}{'caught':>12}{'false alarms':>14}{'undecided':>11}{'exceptions':>12}{'median s':>10}")
    for checker in ("jaxnet", "jax check_grads"):
        found = people(checker, most)
        caught, alarms = f"{found.caught}/{found.wrong}", f"{found.alarms}/{found.right}"
        middle = float(np.median(found.seconds))
        print(
            f"{checker:24}{caught:>12}{alarms:>14}{found.undecided:>11}{found.exceptions:>12}{middle:>10.2f}"
        )


def timed(function: Callable[[], Any], runs: int = 2) -> float:
    """The last of several runs: the first ones compile."""
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    return seconds


def first_check() -> float:
    """The median of first checks of functions of 3 elements, each new to jax."""
    seconds = []
    for number in range(5):

        def function(v: Any, number: int = number) -> Any:
            return jnp.sum(jnp.sin(v) ** 2) * (number + 2)

        start = time.perf_counter()
        check_gradients(function, np.array([0.3, 0.6, 0.9]) + number)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


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

    print(f"a check of 3 elements, the first of its function: {first_check():.2f} s")
    million = np.ones(1_000_000)
    large = timed(lambda: check_gradients(lambda v: jnp.mean(jnp.tanh(v) * v**2), million).matrix, 1)
    print(f"a million elements: {large:.1f} s")
    start = time.perf_counter()
    jax.device_get(numerical_gradient(lambda p: network.loss(p, x, t), params))
    once = time.perf_counter() - start
    again = timed(lambda: jax.device_get(numerical_gradient(lambda p: network.loss(p, x, t), params)), 1)
    print(f"numerical_gradient of 784-50-10: {once:.2f} s with compilation, {again:.2f} s after")
    generic = timed(lambda: check_gradients(function, vector).matrix)
    print(f"the exhaustive check of a function of 10,000 elements, second run: {generic:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("accuracy", "people", "speed"))
    parser.add_argument("--most", type=int, help="functions of the second catalogue")
    options = parser.parse_args()
    if options.only in (None, "accuracy"):
        accuracy()
    if options.only in (None, "people"):
        second_catalogue(options.most)
    if options.only in (None, "speed"):
        speed()


if __name__ == "__main__":
    main()
