"""What a check found in one leaf, from the verdicts on its elements: the worst, why, and from what cause."""

import jax
import numpy as np

from jaxnet.gradcheck import judge
from jaxnet.gradcheck.causes import find_causes
from jaxnet.gradcheck.estimate import Status
from jaxnet.gradcheck.found import Round
from jaxnet.gradcheck.gradients import Gradient
from jaxnet.gradcheck.lines import DIRECTIONS
from jaxnet.gradcheck.problem import Problem
from jaxnet.gradcheck.report import COMPLEX, RICHARDSON, Element, Leaf, Verdict, listing
from jaxnet.gradcheck.rounds import entry_slope

_ENTRIES = 64  # of f's values, to find the worst entry of a Jacobian among
VERDICTS: tuple[Verdict, ...] = ("pass", "inconclusive", "fail")


def rows_of(gradient: Gradient, found: Round) -> np.ndarray:
    """Return which of the elements that were looked at a gradient is known for."""
    known = np.ones(len(found.elements), bool)
    return known if gradient.looked is None else gradient.looked[found.elements]


def _apart(gradient: Gradient, found: Round, number: int) -> np.ndarray:
    """Return how far a gradient is off, at each element, to rank them by."""
    ratio = np.zeros(len(found.elements))
    pairs = [(gradient.own, found.allowed), (gradient.wide, found.allowed_wide)]
    for values, allowed in pairs:
        if values:
            far = judge.distance(values[number][found.elements], found.estimate)
            limit = np.where(np.isfinite(allowed[gradient.name]), allowed[gradient.name], np.inf)
            with np.errstate(all="ignore"):
                # Of what fails by how much it is off, of the rest by how near it is to that.
                share = np.where(found.failed[gradient.name], 1 + far, far / np.maximum(limit, 1e-300))
                ratio = np.fmax(ratio, np.where(np.isinf(far), np.inf, share))
    return np.where(rows_of(gradient, found), np.nan_to_num(ratio, nan=0.0, posinf=1e300), 0.0)


def _worst(
    known: list[Gradient], rounds: list[Round], leaf: int, size: int, start: int
) -> tuple[int, int, np.ndarray]:
    """Return the projection and row of the worst element of a leaf, and every element's verdict, 0 to 2."""
    state = np.full(size, -1)
    worst, where = (-1, -1.0), (0, 0)
    for number, found in enumerate(rounds):
        rows = np.flatnonzero(found.leaf_of == leaf)
        if not rows.size:
            continue
        wrong = np.any([np.zeros(len(rows), bool), *(found.failed[g.name][rows] for g in known)], axis=0)
        apart = np.max([np.zeros(len(rows)), *(_apart(g, found, number)[rows] for g in known)], axis=0)
        verdict = np.where(wrong, 2, np.where(found.decided[rows], 0, 1))
        places = found.elements[rows] - start
        state[places] = np.maximum(state[places], verdict)
        code = int(verdict.max())
        row = int(np.argmax(np.where(verdict == code, apart, -1)))
        if (code, apart[row]) > worst:
            worst, where = (code, float(apart[row])), (number, int(rows[row]))
    return *where, state


def leaf_report(problem: Problem, known: list[Gradient], rounds: list[Round], leaf: int) -> Leaf:
    """Return what was found of one leaf, in all rounds of projections."""
    start, size = int(problem.starts[leaf]), problem.sizes[leaf]
    number, row, state = _worst(known, rounds, leaf, size, start)
    found = rounds[number]
    here = found.leaf_of == leaf
    failed = [g.name for g in known if any(r.failed[g.name][r.leaf_of == leaf].any() for r in rounds)]
    counts = {name: int((state == code).sum()) for code, name in enumerate(("pass", "inconclusive", "fail"))}
    notes = []
    unlocated = sorted(
        {name for r in rounds for name in (r.lines[leaf].failed if r.lines else [])} - set(failed)
    )
    if unlocated:
        failed += unlocated
        notes.append(f"{listing(unlocated)} is wrong along random directions: in elements not looked at")
    notes += _kinks(problem, found, here) + _roughly_right(problem, known, rounds, leaf)
    if len(found.elements) < problem.starts[-1]:
        largest = max(float(np.abs(found.estimate.value[here]).max(initial=0)), np.finfo(float).tiny)
        escape = max(r.lines[leaf].resolution for r in rounds)
        what = f"under {escape:.1e} ({100 * escape / largest:.2g} % of the largest element seen)"
        what = what if np.isfinite(escape) else "of any size, as f has kinks along these,"
        notes.append(
            f"{int((state >= 0).sum())} of {size} elements were looked at, and {DIRECTIONS} "
            f"random directions: what could have escaped is an error {what} in a single element"
        )
    code = 2 if failed else int(state.max(initial=0))
    exhaustive = len(found.elements) == problem.starts[-1]
    causes = _causes(problem, known, rounds[0], leaf) if exhaustive and len(rounds) == 1 else []
    return Leaf(
        path=problem.paths[leaf],
        shape=tuple(np.shape(problem.leaves[leaf])),
        dtype=str(getattr(problem.leaves[leaf], "dtype", np.dtype(type(problem.leaves[leaf])))),
        checked=int((state >= 0).sum()),
        verdict=VERDICTS[code],
        failed=failed,
        counts=counts,
        worst=_element(problem, known, rounds, number, row),
        cause="; ".join(causes) or None,
        notes=notes,
    )


def _kinks(problem: Problem, found: Round, here: np.ndarray) -> list[str]:
    estimate, notes = found.estimate, []
    kinks = np.flatnonzero(here & (estimate.status == Status.KINK))
    if kinks.size:
        first = kinks[0]
        notes.append(
            f"{kinks.size} of its elements at a kink, such as {problem.element(found.elements[first])} "
            f"with slopes {estimate.low[first]:.4g} and {estimate.high[first]:.4g}: "
            "what is between them passes"
        )
    edges = np.flatnonzero(here & (estimate.status == Status.EDGE))
    if edges.size:
        notes.append(
            f"{edges.size} of its elements at the end of where f is finite or may be evaluated, such as "
            f"{problem.element(found.elements[edges[0]])}: the slope of one side"
        )
    return notes


def _roughly_right(problem: Problem, known: list[Gradient], rounds: list[Round], leaf: int) -> list[str]:
    """Return a note on each gradient that passes although it is off by more than rounding explains."""
    notes = []
    for gradient in known:
        fewest, where = 16.0, ""
        for number, found in enumerate(rounds):
            for values, wide in ((gradient.own, False), (gradient.wide, True)):
                if not values or (not wide and gradient.wide):
                    continue
                mine = values[number][found.elements]
                noise = np.zeros(len(mine)) if gradient.noise is None else gradient.noise[found.elements]
                rounding = found.estimate.error + judge._ROUNDINGS * noise
                far = judge.distance(mine, found.estimate)
                rows = (found.leaf_of == leaf) & rows_of(gradient, found) & ~found.failed[gradient.name]
                rows &= (far > rounding) & np.isfinite(rounding) & (np.abs(mine) > 1e-7 * found.largest)
                if rows.any() and gradient.rounding is not None:
                    with jax.enable_x64(True):
                        measured = gradient.rounding(number)[found.elements]
                    rows &= far > found.estimate.error + judge._ROUNDINGS * measured
                if rows.any():
                    digits = np.where(rows, judge.digits(mine, found.estimate), 16.0)
                    if digits.min() < min(fewest, 13.0):
                        fewest, where = (
                            float(digits.min()),
                            problem.element(found.elements[int(digits.argmin())]),
                        )
        if where:
            notes.append(
                f"{gradient.name} is right to 1e-{round(fewest)} at {where}, "
                "not as far as rounding would leave it"
            )
    return notes


def _element(problem: Problem, known: list[Gradient], rounds: list[Round], number: int, row: int) -> Element:
    found = rounds[number]
    estimate, index = found.estimate, int(found.elements[row])
    values: dict[str, float] = {}
    allowed: dict[str, float] = {}
    for gradient in known:
        if not rows_of(gradient, found)[row]:
            continue
        wide = gradient.wide is not None and gradient.own is not None and found.failed[gradient.name][row]
        for name, found_values, limits in (
            (
                gradient.name,
                gradient.own or gradient.wide,
                found.allowed if gradient.own else found.allowed_wide,
            ),
            *([(f"{gradient.name} in float64", gradient.wide, found.allowed_wide)] if wide else []),
        ):
            assert found_values is not None
            values[name] = float(found_values[number][index])
            allowed[name] = float(limits[gradient.name][row])
    values[RICHARDSON] = float(estimate.value[row])
    if found.complex_values is not None and np.isfinite(found.complex_values[row]):
        values[COMPLEX] = float(found.complex_values[row])
    failed = [name for name, wrong in found.failed.items() if wrong[row]]
    verdict: Verdict = "fail" if failed else "pass" if found.decided[row] else "inconclusive"
    path = problem.element(index)
    if not problem.output.scalar:
        path += f" of projection {number + 1} of f's values"
    reason = ""
    if failed:
        bad = [name for name in failed if name in values and not np.isfinite(values[name])]
        shown = [(g, values[g.name]) for g in known if g.name in failed and g.name in values]
        names = listing([f"{g.name} ({value:.7g}{_type(problem, g, index)})" for g, value in shown])
        low, high, bar = estimate.low[row], estimate.high[row], estimate.error[row]
        slopes = f"is not between the slopes {low:.7g} and {high:.7g} of the kink"
        target = (
            slopes if estimate.status[row] == Status.KINK else f"is not {estimate.value[row]:.7g} ± {bar:.1e}"
        )
        reason = f"at {path}, {names} " + ("is not finite" if bad else target)
        entries = [_worst_entry(problem, g, found, row) for g, _ in shown if g.entries is not None]
        reason = "; ".join([reason, *(entry for entry in entries if entry)])
    elif verdict == "inconclusive":
        reason = _undecided(problem, known, found, number, row, path)
    return Element(
        path=path,
        values=values,
        error_bar=float(estimate.error[row]),
        verdict=verdict,
        failed=failed,
        reason=reason,
        allowed=allowed,
        low=float(estimate.low[row]),
        high=float(estimate.high[row]),
    )


def _type(problem: Problem, gradient: Gradient, index: int) -> str:
    """Return " in float32" where a gradient is in another type than the numerical side."""
    leaf = int(np.searchsorted(problem.starts, index, side="right")) - 1
    if gradient.own is None or not gradient.dtypes or gradient.dtypes[leaf] in ("float64", "complex128"):
        return ""
    return f" in {gradient.dtypes[leaf]}"


def _worst_entry(problem: Problem, gradient: Gradient, found: Round, row: int) -> str:
    """Say which of f's values a Jacobian's column is wrong for the most, where f has several."""
    assert gradient.entries is not None
    index = int(found.elements[row])
    mine = gradient.entries(index)
    sizes = [int(np.size(value)) for value in problem.output.values]
    starts = np.cumsum([0, *sizes])
    step = float(found.estimate.step[row])
    if problem.output.scalar or not np.isfinite(step):
        return ""
    some = np.argsort(-np.abs(np.nan_to_num(mine, nan=np.inf)))[:_ENTRIES]
    worst, text = -1.0, ""
    for place in some:
        slope = entry_slope(problem, found.target, index, step, int(place))
        apart = abs(mine[place] - slope)
        if np.isfinite(slope) and not apart <= worst:
            worst = float(np.nan_to_num(apart, nan=np.inf))
            out = int(np.searchsorted(starts, place, side="right")) - 1
            where = np.unravel_index(place - starts[out], np.shape(problem.output.values[out]))
            name = (problem.output.paths[out] or "out") + (f"[{', '.join(map(str, where))}]" if where else "")
            text = (
                f"the worst entry is that of {name} by {problem.element(index)}: {mine[place]:.7g}, "
                f"numerically {slope:.7g}"
            )
    return text


def _undecided(
    problem: Problem, known: list[Gradient], found: Round, number: int, row: int, path: str
) -> str:
    estimate, target = found.estimate, found.target
    if row in found.excused:
        slopes = sorted({f"{slope:.7g}" for slope in (estimate.low[row], estimate.high[row])})
        return f"at {path}, numerically {' and '.join(slopes)}, {found.excused[row]}"
    if not np.isfinite(target.value) or (problem.output.scalar and not problem.output.finite[0].all()):
        return "f is not finite at the point itself"
    if estimate.status[row] == Status.JUMP:
        return f"f jumps at {path}, by {estimate.jump[row]:.4g}: it has no derivative there"
    if target.raised:
        return f"f raises {target.raised} near {path}"
    if estimate.status[row] == Status.NOT_FINITE or not np.isfinite(estimate.value[row]):
        return f"f is not finite near {path}"
    if np.isinf(estimate.error[row]):
        return f"the slope of f at {path} has no end: it grows as the step shrinks, or does not settle"
    index, size = found.elements[row], 0.05 * abs(estimate.value[row])

    def is_rounding(g: Gradient) -> bool:
        if g.wide and g.own:
            return bool(abs(g.own[number][index] - estimate.value[row]) > size)
        return g.noise is not None and bool(8 * g.noise[index] > size)

    noisy = [g for g in known if is_rounding(g)]
    if noisy and estimate.error[row] <= size:
        return f"{listing([g.name for g in noisy])} at {path} depends on its rounding: f amplifies it"
    bar = f"{estimate.error[row]:.1e}"
    return f"the error bar at {path}, {bar}, is too wide to decide: f has noise or is not smooth"


def _causes(problem: Problem, known: list[Gradient], found: Round, leaf: int) -> list[str]:
    right = found.estimate.value
    starts = problem.starts

    def split(values: np.ndarray) -> list[np.ndarray]:
        return np.split(values, starts[1:-1])

    leaves = [x for x in jax.tree.leaves(problem.others) if hasattr(x, "shape")]
    batches = {np.shape(x)[0] for x in leaves if np.ndim(x)}
    result = []
    for gradient in known:
        if gradient.looked is not None or not found.failed[gradient.name][found.leaf_of == leaf].any():
            continue
        own = gradient.own[0] if gradient.own else gradient.best(0)
        limits = found.allowed if gradient.wide is None else found.allowed_wide
        finite = bool(np.isfinite(own).all())
        values = gradient.best(0) if finite else own
        # As far as the estimate and rounding go, not as far as a difference may go without mattering.
        noise = np.zeros(len(right)) if gradient.noise is None else judge._ROUNDINGS * gradient.noise
        slack = np.minimum(found.estimate.error + noise + 1e-9 * np.abs(right), limits[gradient.name])
        if gradient.wide is not None:
            slack = slack + 1e-5 * np.abs(right)
        elif gradient.epsilon is not None:
            slack = slack + 4 * gradient.epsilon * (np.abs(right) + found.largest)
        causes = find_causes(
            leaf,
            split(problem.flat)[leaf],
            batches,
            split(values),
            split(right),
            split(slack),
            problem.shapes,
        )
        if causes:
            result.append(f"{gradient.name} {', or '.join(causes)}")
    return result
