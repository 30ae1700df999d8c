"""The gradient cross-checker: independent estimates of one gradient, all against all.

Reverse and forward autodiff, hand-written gradients, extrapolated central differences and the complex step.
The verdict on each element comes from the error bar of the numerical estimate (see `estimate`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.gradcheck import problem as problems
from jaxnet.gradcheck.conclusion import gradient_report
from jaxnet.gradcheck.found import chained, undecided_at
from jaxnet.gradcheck.gradients import autodiff, begun, hand_written, pull_back
from jaxnet.gradcheck.interpret import holds
from jaxnet.gradcheck.locate import Located, find_origins
from jaxnet.gradcheck.problem import Problem
from jaxnet.gradcheck.progress import doing, told
from jaxnet.gradcheck.report import COMPLEX, RICHARDSON, GradientReport, worst_of
from jaxnet.gradcheck.rounds import examine, projected

MODES = ("reverse", "forward")
_log = logging.getLogger(__name__)
_SAMPLER = "random_gamma"  # of gamma, beta, Dirichlet and Student's t
_OF_ITS_OWN = (
    "each operation's derivative there is one of its own, but what they give together is none of f's: "
    "f has a kink"
)
_OF_ITS_DISTRIBUTION = (
    "the derivative of a gamma sample is defined through its distribution function, with the draw fixed, "
    "and is not that of the number that this key gives"
)


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    candidates: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    order: int = 1,
    modes: Sequence[str] = MODES,
    has_aux: bool = False,
    rtol: float | None = None,
    noise: float = 0.0,
    bounds: tuple[Any, Any] | None = None,
    points: Iterable[tuple[Any, ...]] = (),
    locate: bool = True,
) -> GradientReport:
    """Compare all independent estimates of the gradient of f at args, and say which is wrong, where and why.

    f: a pure function of pytrees, traceable by JAX or not; scalar, or any arrays, which are then checked
    through random projections of them. argnums: the arguments to differentiate, as for `jax.grad`; leaves of
    them that are not of a floating-point or complex type are left alone.

    candidates: gradients by name, each a function of f's arguments or a ready pytree, of the structure that
    `jax.grad` returns; of the structure of `jax.jacrev` for an f that is not scalar, or, where it works
    element by element, the derivative of each element. Of complex leaves in jax's convention.

    The numerical side runs in float64: f is traced once, in its own types, and evaluated without their
    rounding. Other estimates run as they are, in the types of args, and are judged at the precision of those;
    their rules also run in float64, where rounding hides nothing. Products are of jax's highest precision,
    where they name none: a GPU's TF32 is no fault of a gradient.

    A difference is a failure where it exceeds the error bar, what rounding explains of that element, and rtol
    of the element (by default 1e-7 in float64, 1e-3 in float32); what is between those passes with a note.

    limit: all elements are looked at one by one up to this many; of more a sample is, and random directions
    of each leaf: the report states what could have escaped. By default 10,000, or 100,000 where one element
    touches so little of what f computes that this is no more work, as in a small network.

    order: 2 also checks the derivative of the gradient, along a random direction. modes: the autodiff modes
    to run. has_aux: f returns (value, aux), and aux is ignored. noise: f's values may vary by so much of
    themselves, for equal input too. bounds: (lower, upper), each None, a number or like what is
    differentiated: f is not evaluated outside. points: more tuples of arguments to check at. locate: whether
    to look for the operation in which a failing autodiff gradient goes wrong.

    Raises:
        TypeError: no leaf to differentiate that is floating-point, an f that does not return floating-point
            numbers, a candidate of another structure, or not of floating-point numbers, an aux that is none.
        ValueError: no leaf to differentiate, NaN in what is differentiated, an argnum, order or mode that
            there is not, a candidate of another shape or with the name of an estimate, a point out of bounds,
            or an f that returns different values for equal input.

    What f raises at the point is raised as it is, with a note on which estimate was running.

    >>> square = lambda x: (x**2).sum()
    >>> check_gradients(square, np.array([1.0, 2.0]), candidates={"by hand": lambda x: 2 * x}).verdict
    'pass'
    >>> check_gradients(square, np.array([1.0, 2.0]), candidates={"by hand": lambda x: x}).leaves[0].cause
    'by hand is 0.5 times the gradient: a factor of 2 is missing'
    """
    if candidates is not None and not isinstance(candidates, Mapping):
        raise TypeError(f"candidates must be gradients by name, such as {{'mine': f}}, got {candidates!r}")
    points = list(points)
    if not all(isinstance(point, tuple) for point in points):
        raise TypeError("points must be tuples of f's arguments, such as [(x,)], got others")
    candidates = {str(name): candidate for name, candidate in (candidates or {}).items()}
    _check_options(candidates, order, modes, rtol, noise)
    options = {"limit": limit, "seed": seed, "rtol": rtol, "noise": noise}

    def check(args: tuple[Any, ...]) -> list[GradientReport]:
        with ExitStack() as stack:
            stack.enter_context(told("check_gradients"))
            stack.enter_context(problems.ordinary())
            if problems.in_float64(args, argnums):
                functions = [f, *(c for c in candidates.values() if callable(c))]
                stack.enter_context(problems.float64(*functions, args=args))
            problem = problems.make_problem(f, args, argnums, has_aux=has_aux, noise=noise, bounds=bounds)
            reports = [_checked(problem, modes, candidates, locate=locate, **options)]
            if order == 2:
                second = _second(problem, seed)
                reports.append(_checked(second, modes, {}, locate=locate, **options))
            return reports

    reports = [report for some in (args, *map(tuple, points)) for report in check(some)]
    return reports[0] if len(reports) == 1 else _together(reports, order)


def _check_options(
    candidates: Mapping[str, Any], order: int, modes: Sequence[str], rtol: float | None, noise: float
) -> None:
    taken = [name for name in candidates if name in (*MODES, RICHARDSON, COMPLEX)]
    if taken:
        raise ValueError(f"a candidate must not be named as an estimate is, got {taken[0]!r}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if isinstance(modes, str) or not all(mode in MODES for mode in modes):
        raise ValueError(f"modes must be some of {', '.join(MODES)}, got {modes!r}")
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be from 0 to 1, got {rtol}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be finite and not negative, got {noise}")


def _checked(
    problem: Problem, modes: Sequence[str], candidates: Mapping[str, Any], *, locate: bool, **options: Any
) -> GradientReport:
    compiling = begun(problem, modes)
    with jax.enable_x64(True), problems.running("the numerical estimates"):
        target = projected(problem, problem.weights[0])
    gradients = autodiff(problem, modes, compiling)
    gradients += [hand_written(problem, name, candidate) for name, candidate in candidates.items()]
    with jax.enable_x64(True), problems.running("the numerical estimates"):
        rounds, gradients = examine(problem, target, gradients, **options)
    report = gradient_report(problem, gradients, rounds, None)
    failing = [name for name in MODES if any(name in leaf.failed for leaf in report.leaves)]
    if problem.traced is None:
        return report
    sampled = holds(problem.traced.jaxpr, _SAMPLER)
    excusable = [chained(found, failing, gradients, n, anywhere=sampled) for n, found in enumerate(rounds)]
    excuse = any(rows.any() for rows in excusable)
    if not (excuse or (locate and (failing or _not_finite(problem)))):
        return report
    located = _origins(problem, bool(failing) and not excuse)
    if excuse and located.checked and not located.origins:  # no rule is to blame
        reason = _OF_ITS_DISTRIBUTION if sampled else _OF_ITS_OWN
        rounds = [undecided_at(rows, found, reason) for rows, found in zip(excusable, rounds, strict=True)]
    return gradient_report(problem, gradients, rounds, located if locate else None)


def _not_finite(problem: Problem) -> bool:
    return not all(finite.all() for finite in problem.output.finite)


def _origins(problem: Problem, is_wrong: bool) -> Located:
    assert problem.traced is not None
    types = [aval.dtype for aval in problem.traced.out_avals]
    weights = [jnp.asarray(np.asarray(w).astype(t)) for w, t in zip(problem.weights[0], types, strict=True)]
    try:
        with doing("where it arises"):
            leaves = [jnp.asarray(leaf) for leaf in problem.leaves]
            return find_origins(problem.traced, leaves, weights, is_wrong=is_wrong)
    except Exception as error:  # the verdict is known: no fault in the search for its cause may cost it
        _log.exception("jaxnet could not find where the gradient of %s goes wrong", problem.name)
        return Located((), 0, (f"where it arises could not be found: {type(error).__name__}: {error}",))


def _second(problem: Problem, seed: int) -> Problem:
    """Return the slope of f's gradient along a random direction, as a problem of its own."""
    rng = np.random.default_rng(seed)
    along = [rng.choice(np.r_[-12:-3, 4:13] / 8, np.shape(leaf)) for leaf in problem.leaves]
    gradient = pull_back(problem)

    def slope(*new: Any) -> Any:
        weights = [jnp.asarray(w) for w in problem.weights[0]]
        found = gradient([jnp.asarray(leaf) for leaf in new], weights)
        pairs = zip(found, along, strict=True)
        return sum(jnp.sum(jnp.real(g) * jnp.asarray(v, jnp.real(g).dtype)) for g, v in pairs)

    second = problems.make_problem(slope, tuple(problem.leaves), tuple(range(len(problem.leaves))))
    return second._replace(
        name=f"the gradient of {problem.name} along a random direction",
        paths=problem.paths,
        others=problem.others,
    )


def _together(reports: list[GradientReport], order: int) -> GradientReport:
    """Return one report of several points or orders: the worst one's, with all of them beside it."""
    verdict = worst_of([report.verdict for report in reports])
    number = next(n for n, report in enumerate(reports) if report.verdict == verdict)
    what = f"point {number // order + 1}" + (f", order {number % order + 1}" if order == 2 else "")
    if order == 2 and len(reports) == 2:
        what = f"order {number + 1}"
    worst = reports[number]
    return replace(worst, summary=f"{what}: {worst.summary}", points=tuple(reports))
