"""What the derivatives are: slopes of the same functions in mpmath's arithmetic, from both sides."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import mpmath as mp
import numpy as np

from benchmarks.audit.calls import Case, floating, weights

# The truth.

Oracle = Callable[..., Any]
DIGITS = 400
ORACLE_PATIENCE = 20  # seconds for one case


class Truth(NamedTuple):
    """Of every differentiated element, the slopes on both sides, the smaller one first."""

    value: float
    low: np.ndarray
    high: np.ndarray
    jump: np.ndarray
    """Whether the function jumps there, and has no derivative."""


def truth_of(oracle: Oracle, case: Case, beside: int = 0) -> Truth:
    """One-sided difference quotients in mpmath's arithmetic, at steps that leave no error in float64.

    beside: at a point a little off in all elements, another one for each number but 0.
    """
    exact = [np.vectorize(mp.mpf, otypes=[object])(arg) if floating(arg) else arg for arg in case.args]
    for number in case.argnums if beside else ():
        rng = np.random.default_rng([beside, number])
        for index in np.ndindex(np.shape(exact[number])):
            exact[number][index] += unit(exact[number][index]) * mp.mpf(10) ** -15 * mp.mpf(rng.normal())
    rows = []
    for number in case.argnums:
        for index in np.ndindex(np.shape(exact[number])):
            x = exact[number][index]

            def along(step: Any, number: int = number, index: tuple[int, ...] = index, x: Any = x) -> Any:
                moved = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in exact]
                moved[number][index] = x + step
                return value(oracle, moved)

            sides = [one_sided(along, sign * unit(x)) for sign in (-1, 1)]
            known = [float(slope) for slope, _ in sides if slope is not None] or [float("nan")]
            rows.append((min(known), max(known), any(jump for _, jump in sides)))
    here = value(oracle, exact)
    low, high, jump = np.array(rows).T
    return Truth(float("nan") if here is None else float(here), low, high, jump.astype(bool))


def unit(x: Any) -> Any:
    """What a step is a small part of."""
    return min(abs(x), mp.mpf(1)) if x else mp.mpf(10) ** -15


def value(oracle: Oracle, args: Sequence[Any]) -> Any:
    """The sum of an oracle's outputs that Case.f takes; None outside of its domain."""
    try:
        found = oracle(*(arg[()] if isinstance(arg, np.ndarray) else arg for arg in args))
    except (ValueError, ZeroDivisionError, mp.libmp.NoConvergence):
        return None
    parts = [np.ravel(np.asarray(part, object)) for part in (found if isinstance(found, tuple) else (found,))]
    total = mp.mpmathify(sum(sum(part * weights(k, part.size)) for k, part in enumerate(parts)))
    return None if (isinstance(total, mp.mpc) and total.imag) or not mp.isfinite(total) else mp.re(total)


def one_sided(along: Callable[[Any], Any], towards: Any) -> tuple[Any, bool]:
    """The slope at 0 towards another number, and whether there is a jump: then it is that beyond it.

    From two difference quotients: a limit that they creep to by a power of the step is 0 or infinite.
    """
    steps = [towards * mp.mpf(10) ** -40, towards * mp.mpf(10) ** -80]
    here, far, near, after = (along(step) for step in (mp.mpf(0), *steps, 2 * steps[1]))
    if here is None or far is None or near is None or after is None:
        return None, False
    if near != here and abs(near - here) > abs(far - here) / 2:
        return (after - near) / steps[1], True
    outer, inner = (far - here) / steps[0], (near - here) / steps[1]
    if abs(inner) > 1.2 * abs(outer) and abs(inner) > 10:
        return mp.sign(inner) * mp.inf, False
    return (inner if abs(inner) > 0.8 * abs(outer) else mp.mpf(0)), False


Kind = Literal["right", "wrong", "rounding", "tie", "value"]
"""Of a gradient: `rounding`, off by no more than the last bits of 1 or of its argument's slopes; `tie`, not
between the slopes along each argument, but between those beside the point, where several arguments tie;
`value`, off because the function's value is."""


def within(gradient: np.ndarray, low: np.ndarray, high: np.ndarray, rtol: float) -> np.ndarray:
    """Which elements are between the slopes, or infinite where one of them is; true where none is known."""
    finite = (np.where(np.isfinite(side), abs(side), 0) for side in (low, high))
    slack = rtol * np.maximum(*finite) + 1e-300
    steep = np.isinf(gradient) & (np.isinf(low) | np.isinf(high))
    inside: np.ndarray = steep | np.isnan(low) | (low - slack <= gradient) & (gradient <= high + slack)
    return inside


def kind_of(
    gradient: np.ndarray, truth: Truth, case: Case, oracle: Oracle, dtype: str
) -> tuple[Kind, np.ndarray]:
    """How a gradient compares with the truth, and which of its elements are wrong."""
    rtol = {"float64": 1e-6, "float32": 1e-3}[dtype]
    wrong = ~within(gradient, truth.low, truth.high, rtol) & ~(truth.jump & np.isnan(gradient))
    if not wrong.any():
        return "right", wrong
    got = float(case.f(*case.args))
    if not np.isnan(truth.value) and abs(got - truth.value) > rtol * max(abs(truth.value), 1e-300):
        return "value", wrong
    leaf = np.repeat(np.arange(len(case.argnums)), [np.size(case.args[n]) for n in case.argnums])
    known = np.maximum(*(np.where(np.isfinite(side), abs(side), 1) for side in (truth.low, truth.high)))
    size = np.array([max(1.0, known[leaf == n].max()) for n in leaf])
    off = np.minimum(abs(gradient - truth.low), abs(gradient - truth.high))
    if (off < 100 * np.finfo(dtype).eps * size)[wrong].all():
        return "rounding", wrong
    if gradient.size > 1 and np.isfinite(gradient).all():
        near = [truth_of(oracle, case, beside) for beside in range(1, 25)]
        low, high = np.nanmin([t.low for t in near], axis=0), np.nanmax([t.high for t in near], axis=0)
        if within(gradient, low, high, rtol)[wrong].all():
            return "tie", wrong
    return "wrong", wrong


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in Python code that takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
