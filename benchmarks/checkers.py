"""Gradient checkers side by side, and the checker's speed: `python -m benchmarks.checkers`.

On two catalogues: how many wrong gradients each catches, how many right ones it calls wrong, what it cannot
decide or raises on, and its time. `jax.test_util.check_grads` and torch's `gradcheck` get a hand-written
gradient as the backward pass of the function, the usual way, and keep their default tolerances. torch, if it
is installed, gets the functions of one array through a torch.autograd.Function, in float64, as its gradcheck
wants. The second catalogue is that of the tests (tests/gradcheck/people), functions as people write them,
each in float32 and float64, with its own gradient and with one leaf of it 2 % too large.
"""

import argparse
import datetime
import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import jaxnet
import reference_numpy
from benchmarks.__main__ import machine
from benchmarks.gradient_catalogue import CASES, Case
from jaxnet import check_gradients, datasets, network, numerical_gradient


def wrapped(case: Case) -> Callable[..., Any]:
    """The function with the hand-written gradient as its backward pass."""
    if case.candidate is None:
        return case.f
    g = jax.custom_vjp(case.f)

    def backward(args: Any, cotangent: Any) -> tuple[Any, ...]:
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

    caught: int = 0
    wrong: int = 0
    alarms: int = 0
    right: int = 0
    undecided: int = 0
    exceptions: int = 0
    seconds: tuple[float, ...] = ()

    def and_one(self, verdict: str, right: bool, seconds: float) -> "Counted":
        return Counted(
            self.caught + (not right and verdict == "fail"),
            self.wrong + (not right),
            self.alarms + (right and verdict == "fail"),
            self.right + right,
            self.undecided + (verdict == "inconclusive"),
            self.exceptions + (verdict not in ("pass", "fail", "inconclusive")),
            (*self.seconds, seconds),
        )


def people(most: int | None) -> dict[str, Counted]:
    """Run the checkers over the second catalogue, one after the other on each function."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "gradcheck"))
    from people import CASES as PEOPLE
    from people import right_gradient, wrong_gradient

    found = {"jaxnet": Counted(), "jax check_grads": Counted()}
    for case in PEOPLE[:most]:
        for dtype in (np.float32, np.float64):
            for make, right in ((right_gradient, True), (wrong_gradient, False)):
                for checker in found:
                    jax.clear_caches()
                    start = time.perf_counter()
                    try:
                        verdict = _people_verdict(checker, case, dtype, make(case, dtype))
                    except Exception as error:  # exceptions of the checkers are one of the counted results
                        verdict = f"{type(error).__name__}: {error}".splitlines()[0]
                    found[checker] = found[checker].and_one(verdict, right, time.perf_counter() - start)
                    if verdict != ("pass" if right else "fail"):
                        side = "right" if right else "wrong"
                        name = np.dtype(dtype).name
                        print(f"  {checker}: {case.name}, {name}, {side}: {verdict}", flush=True)
    return found


def _people_verdict(checker: str, case: Any, dtype: Any, gradient: Callable[..., Any]) -> str:
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
    results = people(most)
    print(f"{'':24}{'caught':>12}{'false alarms':>14}{'undecided':>11}{'exceptions':>12}{'median s':>10}")
    for checker, found in results.items():
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


def _own_gradient(f: Callable[..., Any], x: Any) -> Any:
    return jax.block_until_ready(jax.jit(jax.grad(f))(x))


def heavy() -> None:
    """Functions that take long to compile, beside the time to compile and run their own gradient."""
    import optax
    from jax.experimental.ode import odeint

    key = jax.random.key(0)
    logits = np.random.default_rng(0).normal(size=(2, 12, 6))
    labels, none = np.array([[1, 2, 3, 4], [2, 2, 5, 0]]), np.zeros((2, 12))
    padding = np.array([[0, 0, 0, 0], [0, 0, 0, 1.0]])
    times, start = np.linspace(0, 2, 5), np.array([1.0, 0.5])

    def populations(y: Any, t: Any, p: Any) -> Any:
        return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])

    functions: dict[str, tuple[Callable[..., Any], Any]] = {
        "gamma": (lambda a: (jax.random.gamma(key, a, dtype=a.dtype) ** 2).sum(), np.array([0.7, 2.3, 5.1])),
        "gamma distribution": (
            lambda a: jax.scipy.stats.gamma.logcdf(jnp.array([0.5, 2.0, 4.0]), a).sum(),
            np.array([0.7, 2.3, 5.1]),
        ),
        "dirichlet": (
            lambda a: jnp.log(jax.random.dirichlet(key, a, dtype=a.dtype)).mean(),
            np.array([0.7, 2.3, 5.1]),
        ),
        "CTC": (lambda z: optax.ctc_loss(z, none, labels, padding).sum(), logits),
        "adaptive ODE": (
            lambda p: (odeint(populations, start, times, p) ** 2).sum(),
            np.array([1.0, 0.8, 0.6, 0.9]),
        ),
    }
    for name, (f, x) in functions.items():
        jax.clear_caches()
        with jax.enable_x64(True):
            own = timed(partial(_own_gradient, f, x), 1)
        jax.clear_caches()
        check = timed(partial(check_gradients, f, x), 1)
        print(f"{name}: {check:.1f} s, its own gradient {own:.1f} s: {check / own:.1f} x")


def located() -> None:
    """The operation with a wrong rule among 100."""

    @jax.custom_jvp
    def wrong(v: Any) -> Any:
        return jnp.tanh(v)

    wrong.defjvps(lambda dv, out, v: 0.9 * dv * (1 - out**2))

    def f(v: Any) -> Any:
        for number in range(33):
            v = jnp.sin(wrong(v) if number == 16 else jnp.cos(v)) + v * 0.5
        return v.sum()

    start = time.perf_counter()
    origins = jaxnet.locate(f, np.array([0.3, 0.6, 0.9]))
    seconds = time.perf_counter() - start
    count = len(jax.make_jaxpr(f)(np.ones(3)).eqns)
    names = ", ".join(f"{o.operation} {o.name}" for o in origins)
    print(f"locate among {count} operations: {seconds:.1f} s: {names}")


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
    located()
    heavy()


SECTIONS = {
    "accuracy": "the catalogue of gradient_catalogue.py",
    "people": "the catalogue of tests/gradcheck/people",
    "speed": "speed",
}
RESULTS = Path(__file__).with_name("CHECKERS.md")
HEAD = "# Checkers side by side\n\nWritten by `python -m benchmarks.checkers --write`; not edited by hand."


class Tee(io.StringIO):
    """What is printed, kept too."""

    def write(self, text: str) -> int:
        print(text, end="", file=sys.__stdout__, flush=True)
        return super().write(text)


def write(name: str, told: str) -> None:
    """Replace one section of CHECKERS.md, or put it behind the others."""
    text = RESULTS.read_text() if RESULTS.exists() else HEAD
    head, *sections = text.split("\n\n## ")
    found = {section.partition("\n")[0]: section for section in sections}
    date = datetime.date.today().isoformat()
    found[SECTIONS[name]] = f"{SECTIONS[name]}\n\n{machine()}; {date}.\n\n```\n{told.rstrip()}\n```"
    RESULTS.write_text("\n\n## ".join([head, *(section.strip() for section in found.values())]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(SECTIONS))
    parser.add_argument("--most", type=int, help="functions of the second catalogue")
    parser.add_argument("--write", action="store_true", help="put what is printed into CHECKERS.md")
    options = parser.parse_args()
    if options.write and options.most:
        parser.error("--write is of a whole catalogue, got it with --most")
    runs: dict[str, Callable[[], None]] = {
        "accuracy": accuracy,
        "people": partial(second_catalogue, options.most),
        "speed": speed,
    }
    for name in [options.only] if options.only else SECTIONS:
        with redirect_stdout(Tee()) as told:
            runs[name]()
        if options.write:
            write(name, told.getvalue())


if __name__ == "__main__":
    main()
