"""What a check found, from the verdicts on the elements: leaves, worst elements, causes, who disagrees."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet._probe import is_float64
from jaxnet.causes import find_causes
from jaxnet.report import (
    COMPLEX,
    RICHARDSON,
    Checked,
    Element,
    GradientReport,
    Leaf,
    Lines,
    Method,
    Verdict,
    listing,
)

DIRECTIONS = 12  # random ones of each leaf of a larger pytree
ERROR_BARS = 3  # a method may differ by from the estimate
_VERDICTS: tuple[Verdict, ...] = ("pass", "inconclusive", "fail")


def _element_path(problem: Any, flat_index: int | np.integer) -> str:
    leaf = int(np.searchsorted(problem.starts, flat_index, side="right")) - 1
    where = np.unravel_index(flat_index - problem.starts[leaf], problem.shapes[leaf])
    return problem.paths[leaf] + (f"[{', '.join(map(str, where))}]" if where else "")


def _worst(
    problem: Any, methods: list[Method], rounds: list[Checked], leaf: int
) -> tuple[int, int, np.ndarray]:
    """Return the projection and row of the worst element of a leaf, and every element's verdict, 0 to 2."""
    state = np.full(problem.sizes[leaf], -1)
    worst, where = (-1, -1.0), (0, 0)
    for number, checked in enumerate(rounds):
        rows = np.flatnonzero(checked.leaf_of == leaf)
        apart, wrong = np.zeros(len(rows)), np.zeros(len(rows), bool)
        for method in methods:
            if method.own:
                failed = checked.failed[method.name][rows]
                far = np.abs(method.best(number)[checked.index[rows]] - checked.estimate.value[rows])
                own = np.abs(method.own[number][checked.index[rows]] - checked.estimate.value[rows])
                far = np.where(np.isfinite(far) & np.isfinite(own), np.maximum(far, own), np.inf)
                looked = method.looked[checked.index[rows]] if method.sampled else True
                apart = np.where(
                    looked & (failed | ~wrong), np.maximum(apart * (failed <= wrong), far), apart
                )
                wrong |= failed
        verdict = np.where(wrong, 2, np.where(checked.resolved[rows], 0, 1))
        places = checked.index[rows] - problem.starts[leaf]
        state[places] = np.maximum(state[places], verdict)
        for code in np.unique(verdict)[-1:]:
            row = int(np.argmax(np.where(verdict == code, apart, -1)))
            if (code, apart[row]) > worst:
                worst, where = (int(code), float(apart[row])), (number, int(rows[row]))
    return *where, state


def leaf_report(
    problem: Any,
    methods: list[Method],
    rounds: list[Checked],
    lines: list[list[Lines]],
    leaf: int,
    exhaustive: bool,
) -> Leaf:
    """Return what was found of one leaf, in all rounds of projections."""
    number, row, state = _worst(problem, methods, rounds, leaf)
    checked = rounds[number]
    here = checked.leaf_of == leaf
    failed = [
        m.name for m in methods if any(c.failed[m.name][c.leaf_of == leaf].any() for c in rounds if m.own)
    ]
    counts = {name: int((state == code).sum()) for code, name in enumerate(("pass", "inconclusive", "fail"))}
    notes = []
    unlocated = sorted({name for round_ in lines for name in round_[leaf].failed} - set(failed))
    if unlocated:
        failed += unlocated
        notes.append(f"{listing(unlocated)} is wrong along random directions: in elements not looked at")
    kinks = np.flatnonzero(here & checked.estimate.kink)
    if kinks.size:
        first, found = kinks[0], checked.estimate
        notes.append(
            f"{kinks.size} of its elements at a kink, such as {_element_path(problem, checked.index[first])} "
            f"with slopes {found.low[first]:.4g} and {found.high[first]:.4g}: what is between them passes"
        )
    if not exhaustive:
        size = max(float(np.abs(checked.estimate.value[here]).max(initial=0)), np.finfo(float).tiny)
        escape = max(round_[leaf].resolution for round_ in lines)
        notes.append(
            f"{int((state >= 0).sum())} of {problem.sizes[leaf]} elements were looked at, and {DIRECTIONS} "
            f"random directions: what could have escaped is an error under {escape:.1e} "
            f"({100 * escape / size:.2g} % of the largest element seen) in a single element"
        )
    code = 2 if failed else int(state.max(initial=0))
    causes = _causes(problem, methods, rounds[0], leaf) if exhaustive and len(rounds) == 1 else []
    return Leaf(
        path=problem.paths[leaf],
        shape=problem.shapes[leaf],
        dtype=str(jnp.result_type(problem.leaves[leaf])),
        checked=int((state >= 0).sum()),
        verdict=_VERDICTS[code],
        failed=failed,
        counts=counts,
        worst=_element(problem, methods, checked, number, row),
        cause="; ".join(causes) or None,
        notes=notes,
    )


def _element(problem: Any, methods: list[Method], checked: Checked, number: int, row: int) -> Element:
    found, index = checked.estimate, int(checked.index[row])
    values = {
        m.name: float(m.own[number][index]) for m in methods if m.own and (not m.sampled or m.looked[index])
    }
    wide = {
        f"{m.name} in float64": float(m.wide[number][index])
        for m in methods
        if m.wide is not None and checked.failed[m.name][row]
    }
    values[RICHARDSON] = float(found.value[row])
    if checked.complex_values is not None and checked.complex_looked[row]:
        values[COMPLEX] = float(checked.complex_values[row])
    failed = [name for name, wrong in checked.failed.items() if wrong[row]]
    path, bar = _element_path(problem, index), float(found.error[row])
    verdict: Verdict = "fail" if failed else "pass" if checked.resolved[row] else "inconclusive"
    reason = ""
    if failed:
        bad = [name for name in failed if not np.isfinite(values[name])]
        names = listing([f"{name} ({values[name]:.7g})" for name in failed])
        slopes = f"is not between the slopes {found.low[row]:.7g} and {found.high[row]:.7g} of the kink"
        target = slopes if found.kink[row] else f"is not {found.value[row]:.7g} ± {bar:.1e}"
        reason = f"at {path}, {names} " + ("is not finite" if bad else target)
    elif verdict == "inconclusive":
        if not checked.finite_center:
            reason = "f is not finite at the point itself"
        elif not np.isfinite(bar):
            reason = f"f is not finite near {path}"
        else:
            reason = (
                f"the error bar at {path}, {bar:.1e}, is too wide to decide: f has noise of "
                f"{checked.sigma:.1e} or is not smooth"
            )
    return Element(path, values | wide, bar, verdict, failed, reason)


def _causes(problem: Any, methods: list[Method], checked: Checked, leaf: int) -> list[str]:
    found = checked.estimate
    right = found.value
    if checked.complex_values is not None:
        right = np.where(checked.complex_looked, checked.complex_values, right)

    def split(values: np.ndarray) -> list[np.ndarray]:
        return np.split(values, problem.starts[1:-1])

    result = []
    for method in methods:
        if not method.own or method.sampled or not checked.failed[method.name][checked.leaf_of == leaf].any():
            continue
        slack = ERROR_BARS * found.error + checked.margins[method.name]
        finite = bool(np.isfinite(method.own[0]).all())
        values = method.wide[0] if finite and method.wide is not None else method.own[0]
        causes = find_causes(
            problem.wrt, problem.args, leaf, split(values), split(right), split(slack), problem.shapes
        )
        if causes:
            result.append(f"{method.name} {', or '.join(causes)}")
    return result


def gradient_report(
    problem: Any, methods: list[Method], rounds: list[Checked], leaves: list[Leaf]
) -> GradientReport:
    """Return the report on all leaves."""
    names = {m.name: m.unavailable or "available" for m in methods}
    reasons = [checked.complex_reason for checked in rounds if checked.complex_reason]
    names |= {RICHARDSON: "available", COMPLEX: reasons[0] if reasons else "available"}
    matrix = _matrix(methods, rounds)
    order = {"fail": 2, "inconclusive": 1, "pass": 0}
    verdict = max((leaf.verdict for leaf in leaves), key=order.__getitem__)
    worst = max(leaves, key=lambda leaf: order[leaf.verdict]).worst
    notes = []
    if not problem.scalar:
        notes.append(f"f is not scalar: checked through {len(rounds)} random projections of its values")
    if not problem.is_wide:
        notes.append(
            "f does not take float64: the numerical side runs in its own type, with wider error bars"
        )
    for method in methods:
        narrow = sorted({str(d) for d in method.dtypes if not is_float64(d)})
        if narrow and method.ready:
            notes.append(f"{method.name} is judged at the precision of {listing(narrow)}")
        if method.sampled and method.unavailable is None:
            notes.append(
                f"{method.name}: {int(method.looked.sum())} elements and random directions of each leaf"
            )
    looked = sum(int(checked.complex_looked.sum()) for checked in rounds)
    if not reasons and looked < sum(len(checked.index) for checked in rounds):
        notes.append(f"{COMPLEX}: {looked} elements")
    curve = dict(rounds[0].curve)
    curve["name"] = _element_path(problem, curve.pop("element"))
    return GradientReport(
        verdict=verdict,
        function=getattr(getattr(problem.f, "func", problem.f), "__name__", "f").replace("<lambda>", "f"),
        summary=_summary(names, matrix, leaves),
        leaves=leaves,
        worst=worst,
        methods=names,
        matrix=matrix,
        notes=notes,
        curve=curve,
    )


def _matrix(methods: list[Method], rounds: list[Checked]) -> dict[str, dict[str, float]]:
    """Return the largest difference of each two estimates, relative to the leaf, over what both looked at."""
    columns: dict[str, list[np.ndarray]] = {}
    looked: dict[str, list[np.ndarray]] = {}

    def add(name: str, values: np.ndarray, where: np.ndarray | None = None) -> None:
        columns.setdefault(name, []).append(values)
        looked.setdefault(name, []).append(np.ones(len(values), bool) if where is None else where)

    for number, checked in enumerate(rounds):
        for method in methods:
            if method.own:
                where = method.looked[checked.index] if method.sampled else None
                add(method.name, method.best(number)[checked.index], where)
        add(RICHARDSON, checked.estimate.value)
        if checked.complex_values is not None:
            add(COMPLEX, checked.complex_values, checked.complex_looked)
    scale = np.concatenate([checked.scale for checked in rounds])
    scale = np.where(scale > 0, scale, 1.0)
    full = {name: np.concatenate(parts) for name, parts in columns.items() if len(parts) == len(rounds)}
    seen = {name: np.concatenate(looked[name]) for name in full}

    def apart(one: str, other: str) -> float:
        difference = (np.abs(full[one] - full[other]) / scale)[seen[one] & seen[other]]
        return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0))

    return {one: {other: apart(one, other) for other in full} for one in full}


def _summary(names: dict[str, str], matrix: dict[str, dict[str, float]], leaves: list[Leaf]) -> str:
    available = [name for name, why in names.items() if why == "available"]
    failed = [name for name in available if any(name in leaf.failed for leaf in leaves)]
    others = [name for name in available if name not in failed]

    def agreement(group: list[str]) -> str:
        pairs = [matrix[a][b] for a in group for b in group if a != b and a in matrix and b in matrix]
        return f", which agree to {max(pairs):.0e}" if pairs else ""

    if not failed:
        undecided = [leaf.path for leaf in leaves if leaf.verdict == "inconclusive"]
        text = f"{listing(available)} agree to {max([0.0, *(max(r.values()) for r in matrix.values())]):.0e}"
        return f"the numerical estimate does not decide {listing(undecided)}; {text}" if undecided else text
    verb = "disagrees" if len(failed) == 1 else "disagree"
    return f"{listing(failed)} {verb} with {listing(others)}{agreement(others)}"
