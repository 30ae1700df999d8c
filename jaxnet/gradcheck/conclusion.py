"""What a check found in all: the verdict, who disagrees with whom, in which types, where it arises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxnet.gradcheck import judge
from jaxnet.gradcheck.estimate import Status, scales
from jaxnet.gradcheck.findings import VERDICTS, leaf_report, rows_of
from jaxnet.gradcheck.found import Round
from jaxnet.gradcheck.gradients import Gradient
from jaxnet.gradcheck.locate import Located, Origin
from jaxnet.gradcheck.problem import Problem
from jaxnet.gradcheck.report import COMPLEX, RICHARDSON, GradientReport, Leaf, listing, worst_of


def gradient_report(
    problem: Problem, gradients: list[Gradient], rounds: list[Round], located: Located | None
) -> GradientReport:
    """Return the report on all leaves."""
    known = [g for g in gradients if g.unavailable is None]
    leaves = [leaf_report(problem, known, rounds, leaf) for leaf, size in enumerate(problem.sizes) if size]
    names = {g.name: g.unavailable or "available" for g in gradients}
    reasons = [found.complex_reason for found in rounds if found.complex_reason]
    names |= {RICHARDSON: "available", COMPLEX: reasons[0] if reasons else "available"}
    matrix = _matrix(known, rounds)
    verdict = worst_of([leaf.verdict for leaf in leaves])
    worst = max(leaves, key=lambda leaf: VERDICTS.index(leaf.verdict)).worst
    notes = _notes(problem, gradients, rounds)
    summary = _summary(names, matrix, leaves)
    lost = [
        _outputs(problem, path, finite)
        for path, finite in zip(problem.output.paths, problem.output.finite, strict=True)
    ]
    lost = [text for text in lost if text]
    if lost:
        verdict = worst_of([verdict, "inconclusive"])
        if problem.output.scalar:
            summary = "f is not finite at the point itself: nothing can be compared"
        else:
            summary = f"{summary}; f's values {listing(lost)} are not finite and were left out"
    if not known:
        verdict, summary = "inconclusive", "nothing was compared: no gradient is available"
        leaves = [replace(leaf, verdict="inconclusive") for leaf in leaves]
    text, origins = "", tuple[Origin, ...]()
    if located is not None:
        origins, text = located.origins, _located_text(located)
        notes += list(located.notes)
    hand = (
        [layers for g in known if (layers := _by_layer(g.name, leaves))]
        if located is None or not origins
        else []
    )
    return GradientReport(
        verdict=verdict,
        function=problem.name,
        summary=summary,
        leaves=leaves,
        worst=worst,
        methods=names,
        matrix=matrix,
        notes=notes,
        precision=_precision(problem, known, rounds),
        origins=origins,
        located="; ".join([*([text] if text else []), *hand]),
        curve=_curve(problem, rounds, leaves),
    )


def _outputs(problem: Problem, path: str, finite: np.ndarray) -> str:
    if finite.all():
        return ""
    first = [f"[{', '.join(map(str, where))}]" for where in np.argwhere(~finite)[:3]] if finite.ndim else [""]
    more = f" and {int((~finite).sum()) - 3} more" if (~finite).sum() > 3 else ""
    return ", ".join(f"{path or 'out'}{where}" for where in first) + more


def _notes(problem: Problem, gradients: list[Gradient], rounds: list[Round]) -> list[str]:
    notes = []
    if not problem.output.scalar:
        notes.append(f"f is not scalar: checked through {len(rounds)} random projections of its values")
    if problem.wide is None:
        notes.append(
            f"f cannot be traced ({problem.untraceable}): it is run point by point, in the types it was given"
        )
    else:
        for dtype, where in problem.wide.narrow:
            notes.append(
                f"the cast to {dtype} at {where} is taken as the precision of the computation, "
                "not as a step of f: the numerical side does without it"
            )
        opaque = sorted(set(problem.wide.opaque) - {"bitcast_convert_type"})
        if opaque:
            notes.append(f"{listing(opaque)} runs in its own type, the rest of the numerical side in float64")
    for gradient in gradients:
        if gradient.looked is not None and gradient.unavailable is None:
            count = int(gradient.looked.sum())
            notes.append(f"{gradient.name}: {count} elements and random directions of each leaf")
    taken = sum(int(np.isfinite(r.complex_values).sum()) for r in rounds if r.complex_values is not None)
    if taken and taken < sum(len(r.elements) for r in rounds):
        notes.append(f"{COMPLEX}: {taken} elements")
    good = [found.approximate for found in rounds if found.approximate]
    if good:
        notes.append(
            f"f is an approximation, good to about {max(good):.0e}: "
            "run on, or over wide steps, its derivative changes as much"
        )
    return notes


def _precision(problem: Problem, known: list[Gradient], rounds: list[Round]) -> dict[str, str]:
    """Return in which types each gradient that did not fail was verified, and to how many digits."""
    result = {}
    for gradient in known:
        if any(found.failed[gradient.name].any() for found in rounds):
            continue
        types = sorted(set(gradient.dtypes)) or ["float64"]
        parts = []
        for label, values in ((listing(types), gradient.own), ("float64", gradient.wide)):
            if not values:
                continue
            fewest, any_decided, any_seen = 16.0, False, False
            for number, found in enumerate(rounds):
                mine = values[number][found.elements]
                any_decided |= bool((found.decided & rows_of(gradient, found)).any())
                size = np.abs(found.estimate.value)
                rows = found.decided & rows_of(gradient, found)
                rows &= (size > 1e-3 * found.largest) & (size > 100 * found.estimate.error)
                # As many digits as the estimate itself has, at the most.
                with np.errstate(all="ignore"):
                    bar = -np.log10(found.estimate.error / np.abs(found.estimate.value))
                some = np.minimum(
                    judge.digits(mine, found.estimate), np.nan_to_num(bar, posinf=16.0, nan=16.0)
                )
                fewest, any_seen = (
                    min(fewest, float(np.min(some[rows], initial=16.0))),
                    any_seen or rows.any(),
                )
            if any_decided and any_seen:
                parts.append(f"in {label} to {int(max(fewest, 0))} digits")
        if parts:
            result[gradient.name] = ", ".join(dict.fromkeys(parts))
    return result


def _matrix(known: list[Gradient], rounds: list[Round]) -> dict[str, dict[str, float]]:
    """Return the largest difference of each two estimates, relative to the leaf, over what was decided."""
    columns: dict[str, list[np.ndarray]] = {}
    looked: dict[str, list[np.ndarray]] = {}

    def add(name: str, values: np.ndarray, where: np.ndarray) -> None:
        columns.setdefault(name, []).append(values)
        looked.setdefault(name, []).append(where)

    for number, found in enumerate(rounds):
        wrong = np.any([np.zeros(len(found.elements), bool), *found.failed.values()], axis=0)
        # Between the slopes of a kink they need not agree.
        seen = (found.decided & (found.estimate.status != Status.KINK)) | wrong
        for gradient in known:
            add(gradient.name, gradient.best(number)[found.elements], seen & rows_of(gradient, found))
        add(RICHARDSON, found.estimate.value, seen)
        if found.complex_values is not None:
            add(COMPLEX, found.complex_values, seen & np.isfinite(found.complex_values))
    # A leaf whose gradient is nothing but rounding has no size of its own.
    scale = np.concatenate([np.where(r.largest > 1e-9 * r.natural, r.largest, r.natural) for r in rounds])
    scale = np.where(scale > 0, scale, 1.0)
    full = {name: np.concatenate(parts) for name, parts in columns.items() if len(parts) == len(rounds)}
    seen_by = {name: np.concatenate(looked[name]) for name in full}

    def apart(one: str, other: str) -> float:
        with np.errstate(invalid="ignore"):
            difference = (np.abs(full[one] - full[other]) / scale)[seen_by[one] & seen_by[other]]
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
        most = max([0.0, *(max(r.values()) for r in matrix.values())])
        apart = ", but at kinks" if any("at a kink" in note for leaf in leaves for note in leaf.notes) else ""
        text = f"{listing(available)} agree to {most:.0e}{apart}"
        if not any(leaf.counts["pass"] for leaf in leaves):
            return f"the numerical estimate does not decide {listing(undecided)}"
        return f"the numerical estimate does not decide {listing(undecided)}; {text}" if undecided else text
    verb = "disagrees" if len(failed) == 1 else "disagree"
    return f"{listing(failed)} {verb} with {listing(others)}{agreement(others)}"


def _located_text(located: Located) -> str:
    if not located.origins:
        return ""
    parts = []
    for origin in located.origins:
        name = f" `{origin.name}`" if origin.name else ""
        parts.append(f"{origin.operation}{name}, {origin.where} ({origin.kind}: {origin.detail})")
    others = f"; the other {located.checked} operations are right" if located.checked else ""
    return f"arises in {' and in '.join(parts)}{others}"


def _by_layer(name: str, leaves: Sequence[Leaf]) -> str:
    """Say where in ordered leaves, as layers are, a hand-written gradient begins to be wrong."""
    wrong = [name in leaf.failed for leaf in leaves]
    if name in ("reverse", "forward") or not any(wrong) or all(wrong) or len(leaves) < 2:
        return ""
    last = max(n for n, bad in enumerate(wrong) if bad)
    paths = [leaf.path for leaf, bad in zip(leaves, wrong, strict=True) if bad]
    if all(wrong[: last + 1]) and last and "[" in leaves[0].path:
        path = leaves[last].path
        return f"{name} goes wrong at {path}, going backwards: all before it are wrong, all after it right"
    return f"{name} is wrong in {listing(paths)} alone"


def _curve(problem: Problem, rounds: list[Round], leaves: list[Leaf]) -> Callable[[], dict[str, Any]]:
    """Return what computes the central difference of the worst element over many steps."""
    found = rounds[0]
    size = np.abs(np.nan_to_num(found.estimate.value))
    failures = np.sum([np.zeros(len(found.elements)), *found.failed.values()], axis=0)
    row = int(np.argmax(size + failures * (1 + size.max(initial=0))))

    def curve() -> dict[str, Any]:
        index, target = found.elements[row : row + 1], found.target
        with jax.enable_x64(True), np.errstate(all="ignore"):
            x = target.flat[index]
            # No wider than the steps of the check: f may not be meant for more.
            steps = scales(target.flat, target.sizes)[index] * 2.0 ** -np.arange(3.0, 45.0)
            change = target.elements(index, np.concatenate([x + steps, x - steps])[None]).change[0]
        central = (change[: len(steps)] - change[len(steps) :]) / ((x + steps) - (x - steps))
        return {
            "steps": steps,
            "central": central,
            "value": float(found.estimate.value[row]),
            "chosen": float(found.estimate.step[row]),
            "name": problem.element(int(index[0])),
        }

    return curve
