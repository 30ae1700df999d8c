"""Every gradient against the numerical estimate, for each projection of f."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.gradcheck import gradients as ways
from jaxnet.gradcheck import judge
from jaxnet.gradcheck.estimate import (
    HALVINGS,
    Estimate,
    Status,
    complex_rounding,
    complex_step,
    richardson,
    scales,
    table,
)
from jaxnet.gradcheck.evaluate import Target
from jaxnet.gradcheck.found import Round
from jaxnet.gradcheck.gradients import Gradient
from jaxnet.gradcheck.interpret import bind, walk
from jaxnet.gradcheck.lines import compare_lines, random_directions
from jaxnet.gradcheck.problem import Leaves, Problem, is_complex
from jaxnet.gradcheck.progress import doing
from jaxnet.gradcheck.widen import hoisted

LIMIT = 10_000  # elements that are all looked at, one by one, ...
_CHEAP_LIMIT = 100_000  # ... or these, where that is no more work than so many evaluations of f
_SAMPLE = 2_000  # elements of a larger pytree; fewer, ...
_BUDGET, _FEWEST = 1e9, 16  # ... where one evaluation for each would be more than so many operations
_FORWARD_SAMPLE = 256  # elements
_COMPLEX_SAMPLE = 256  # elements, and all that the central difference does not decide
_LARGE = 300  # equations, from which on the complex step is taken only where it is needed
_SLIGHT = 1e-2  # of its leaf's largest: a smaller element says nothing of how good an approximation f is
_WIDE = (4, 6, 8)  # steps so wide that what is a little ragged evens out
_COARSE, _MOST_ROUNDING = 1e-6, 32.0  # epsilon of half precision; so many, of a leaf's largest, are rounding
_CONSTANTS = 2.0**-4  # epsilon, of a leaf's largest: by so much rounded constants of a rule take it off
_LEAST_SIZE = 1e-6  # of an element, by which f's value tells what of its slope is nothing
_NOTHING = 1e-12  # a difference that may be the rounding of a 1, whatever the leaf's size
_TIED, _BESIDE = 2.0**-28, 16  # how far beside a tie, relative to each element, and points there
_ROUNDINGS_BESIDE, _WIDEST_TIE = 16, 2.0**-19  # of a gradient's own type, up to float32's: so far does it see
_RUN_ON = (1, 4, 8)  # more trips of loops that iterate until it is good enough


def projected(problem: Problem, weights: Leaves) -> Target:
    """Return the weighted sum of f's outputs as a function of flat float64 numbers, where x64 is enabled."""
    parts = [np.split(problem.flat, problem.starts[1:-1])[n].reshape(s) for n, s in enumerate(problem.shapes)]
    context = [np.asarray(w).astype(complex if np.iscomplexobj(w) else np.float64) for w in weights]
    if problem.wide is None:
        return Target(
            parts,
            call=lambda new: _plain(problem, new, weights),
            bounds=problem.bounds,
            epsilon=_epsilon(problem),
        )
    wide = problem.wide.jaxpr

    def function(*args: Any) -> Any:
        new, weights = args[: len(parts)], args[len(parts) :]
        leaves = [
            p[0] + 1j * p[1] if is_complex(leaf) else p for p, leaf in zip(new, problem.leaves, strict=True)
        ]
        outputs = walk(wide.jaxpr, wide.consts, leaves, bind)
        pairs = zip(outputs, weights, strict=True)
        if problem.output.scalar:
            return outputs[0]
        return sum(jnp.sum(jnp.where(w != 0, jnp.real(out * w), 0)) for out, w in pairs)

    jaxpr = hoisted(jax.make_jaxpr(function)(*parts, *context))
    return Target(parts, jaxpr=jaxpr, context=context, bounds=problem.bounds)


def entry_slope(problem: Problem, target: Target, index: int, step: float, place: int) -> float:
    """Return the central difference of one of f's values by one element."""
    weights: list[np.ndarray] = []
    starts = np.cumsum([0, *map(np.size, problem.output.values)])
    for value, like, start in zip(problem.output.values, problem.weights[0], starts, strict=False):
        weight = np.zeros(np.size(value), complex if np.iscomplexobj(like) else np.float64)
        if start <= place < start + weight.size:
            weight[place - start] = 1
        weights.append(weight.reshape(np.shape(value)))
    x = target.flat[index]
    with jax.enable_x64(True):
        there = projected(problem, weights) if target.jaxpr is None else target.seen_through(weights)
        change = there.elements(np.array([index]), np.array([[x + step, x - step]])).change[0]
    return float((change[0] - change[1]) / ((x + step) - (x - step)))


def _plain(problem: Problem, parts: Sequence[np.ndarray], weights: Leaves) -> Any:
    flat = np.concatenate([part.ravel() for part in parts])
    if np.iscomplexobj(flat):
        if any(map(is_complex, problem.leaves)):
            raise TypeError("f is of complex numbers")
        leaves: Leaves = [part if part.ndim else part[()] for part in parts]
    else:
        leaves = problem.as_given(flat)
    outputs = [np.asarray(out) for out in problem.call(leaves)]
    if np.iscomplexobj(flat) and not any(map(np.iscomplexobj, outputs)):
        raise TypeError("the value of f stays real for complex input")
    total = sum(np.sum(np.where(w != 0, out * w, 0)) for out, w in zip(outputs, weights, strict=True))
    return total if np.iscomplexobj(flat) else np.real(total)


def _epsilon(problem: Problem) -> float:
    arrays = [*problem.output.values, *(np.asarray(leaf) for leaf in problem.leaves)]
    return max(float(jnp.finfo(array.dtype).eps) for array in arrays)


def examine(
    problem: Problem,
    first: Target,
    gradients: list[Gradient],
    *,
    limit: int | None,
    seed: int,
    rtol: float | None,
    noise: float,
) -> tuple[list[Round], list[Gradient]]:
    """Judge every gradient against the numerical estimate, where x64 is enabled.

    first: the first projection of f.
    """
    total = int(problem.starts[-1])
    if limit is None:
        cheap = total <= _CHEAP_LIMIT and first.work <= LIMIT
        limit = total if cheap else LIMIT
    exhaustive = total <= limit
    index = np.arange(total) if exhaustive else _sample(problem, gradients, _affordable(first, limit), seed)
    directions = [] if exhaustive else random_directions(problem, first, seed)
    slopes: list[Any] = []
    for number, gradient in enumerate(gradients):
        if gradient.wide == [] and gradient.unavailable is None:
            some = np.sort(np.random.default_rng(0).permutation(index)[:_FORWARD_SAMPLE])
            found = directions or random_directions(problem, first, seed)
            gradients[number], slopes = ways.forward_some(problem, gradient, some, [d for d in found])
            directions = found
    rounds = []
    for number, weights in enumerate(problem.weights):
        target = first if number == 0 else projected(problem, weights)
        rounds.append(_round(problem, target, gradients, index, number, rtol, noise))
        if directions:
            with doing("slopes along random directions"):
                judged = rounds[-1]
                lines = compare_lines(
                    problem, judged, gradients, directions, number, rtol, noise, slopes, exhaustive
                )
            rounds[-1] = judged._replace(lines=lines)
    return rounds, gradients


def _affordable(target: Target, limit: int) -> int:
    """Return how many elements to look at: of a function that takes long, few."""
    if target.jaxpr is None:
        return min(_SAMPLE, limit)
    each = target.cost.operations * target.work / target.flat.size
    return int(max(min(_SAMPLE, limit, _BUDGET / max(each, 1.0)), _FEWEST))


def _sample(problem: Problem, gradients: list[Gradient], count: int, seed: int) -> np.ndarray:
    """Return the elements of a large pytree to look at: random ones, and those in dispute."""
    rng = np.random.default_rng(seed)
    quota = max(1, count // len(problem.sizes))
    known = [g for g in gradients if g.unavailable is None and (g.wide or g.own)]
    chosen = []
    for start, size in zip(problem.starts, problem.sizes, strict=False):
        leaf = slice(start, start + size)
        chosen.append(start + rng.permutation(size)[:quota])
        for gradient in known:
            apart = np.abs(gradient.best(0)[leaf] - known[0].best(0)[leaf])
            chosen.append(start + np.argsort(np.where(np.isnan(apart), np.inf, apart))[-8:])
            chosen.append(start + np.argsort(np.abs(gradient.best(0)[leaf]))[-8:])
    return np.unique(np.concatenate(chosen))


def _round(
    problem: Problem,
    target: Target,
    gradients: list[Gradient],
    index: np.ndarray,
    number: int,
    rtol: float | None,
    noise: float,
) -> Round:
    leaf_of = np.searchsorted(problem.starts, index, side="right") - 1
    leaves = len(problem.sizes)
    # At 1e-30 a slope may be anything beside f over that, and is none the smaller for it.
    natural = abs(target.value) / np.maximum(scales(target.flat, target.sizes)[index], _LEAST_SIZE)
    known = [g for g in gradients if g.unavailable is None and (g.wide or g.own)]
    blur, loosened = noise * abs(target.value), np.zeros(len(index))

    def largest(found: Estimate) -> np.ndarray:
        return judge.leaf_largest(found, leaf_of, leaves)

    def wrong(found: Estimate) -> np.ndarray:
        some = [failures(found, g, index, number, rtol, largest(found))[0] for g in known]
        result: np.ndarray = np.any(some or [np.zeros(len(index), bool)], axis=0)
        return result

    def decided(found: Estimate) -> np.ndarray:
        return judge.resolved(found, largest(found), natural, rtol, loosened)

    def unsettled(found: Estimate) -> np.ndarray:
        result: np.ndarray = ~decided(found) | (wrong(found) & ~found.confirmed)
        return result

    with doing(f"differences of {len(index):,} elements"):
        found = richardson(target, index, unsettled, noise=blur)
    with doing("the complex step"):
        values, reason = _complex_step(target, index, found, decided(found), wrong(found))
    apart = _apart(known, found, index, number)
    if values is not None:
        apart |= judge.denied(found, *values)
    # Whom an independent estimate contradicts is wrong; where none confirms the differences they may be.
    lone = ~_confirmed(known, found, index, number, values)
    rows = np.flatnonzero(~decided(found) | ((wrong(found) | apart) & lone))
    sharp = target.sharpened()
    if (
        rows.size
        and sharp.sharp
        and not (values is not None and _settled(found, values, rows, decided, wrong))
    ):

        def still_unsettled(some: Estimate) -> np.ndarray:
            whole = judge.merged(found, some, rows)
            result: np.ndarray = (unsettled(whole) | _apart(known, whole, index, number))[rows]
            return result

        with doing(f"differences of {len(rows):,} elements, without their rounding"):
            sharpened = richardson(sharp, index[rows], still_unsettled, noise=blur)
        found = judge.merged(found, sharpened, rows)
    if values is not None:
        sharper = judge.by_complex_step(found, *values, decided(found))[0]
        alone = wrong(sharper) & (sharper.error < found.error) & (found.error > 1e-3 * np.abs(found.value))
        if alone.any():  # who contradicts the complex step alone may know better
            values[1][alone] += complex_rounding(target, index[alone], values[0][alone])
        steep = _too_steep(found, known, index, number, values[0], abs(target.value))
        found = found._replace(error=np.where(steep, np.inf, found.error))
        found, denied = judge.by_complex_step(found, *values, decided(found))
        if denied is not None:
            reason, values = _not_analytic(found, values[0], denied, index), None
    approximate = None
    rows = np.flatnonzero(wrong(found))
    if rows.size and problem.wide is not None and target.trips:
        spread = _approximation(target, index[rows], found.step[rows])
        size = np.abs(found.value)
        if spread.any():
            # What is so much off in one element is in the others, where it happens not to show.
            of = np.maximum(size[rows], _SLIGHT * largest(found)[rows])
            approximate = float(np.max(spread / np.where(of > 0, of, np.inf)))
            # A gradient that is solved for to a tolerance of its own is off by more than f, if by little.
            loose = max(approximate, min(16 * approximate, 1e-3))
            loosened[rows] = np.maximum(loose * size[rows], spread)
            found = found._replace(error=found.error + loosened)
    rows = np.flatnonzero(wrong(found) & ~_confirmed(known, found, index, number, values))
    if rows.size and target.jaxpr is not None:
        # Where f rounds to the same number everywhere, its differences do not show how far off they are.
        seen = target.blurred(index[rows], target.flat[index[rows]])
        error = found.error.copy()
        error[rows] += 4 * np.nan_to_num(np.abs(seen - target.value)).max(axis=1) / found.step[rows]
        found = found._replace(error=error)
    rows = np.flatnonzero(wrong(found) | _blurred(found, known, index, number, largest(found), natural))
    if rows.size and target.jaxpr is not None:
        own = [g.epsilon[index[rows]].max() for g in known if g.own and g.epsilon is not None]
        beside = min(max(_TIED, *(_ROUNDINGS_BESIDE * epsilon for epsilon in own), 0.0), _WIDEST_TIE)
        tied = _tied(target, index[rows], Estimate(*(column[rows] for column in found)), beside)
        found = judge.merged(found, tied, rows)
    rows = np.flatnonzero(wrong(found))
    if rows.size:
        lost = rows[_undersampled(target, known, found, index, rows, number)]
        found = found._replace(error=np.where(np.isin(np.arange(len(index)), lost), np.inf, found.error))
    known = [_remeasured(g, found, index, number, rtol, largest(found), natural) for g in known]
    if problem.output.scalar and not problem.output.finite[0].all():
        found = found._replace(error=np.full(len(index), np.inf))
    elif not all(finite.all() for finite in problem.output.finite):
        # What leads to the outputs that were left out alone may be anything.
        found = found._replace(
            error=np.where((found.value == 0) & _not_finite(known, index, number), np.inf, found.error)
        )
    if target.raised:
        found = found._replace(error=np.where(found.status == Status.EDGE, np.inf, found.error))
    judged = {g.name: failures(found, g, index, number, rtol, largest(found)) for g in known}
    return Round(
        elements=index,
        leaf_of=leaf_of,
        estimate=found,
        largest=largest(found),
        natural=natural,
        decided=decided(found) & ~_blurred(found, known, index, number, largest(found), natural),
        failed={name: found[0] for name, found in judged.items()},
        allowed={name: found[1] for name, found in judged.items()},
        allowed_wide={name: found[2] for name, found in judged.items()},
        complex_values=None if values is None else values[0],
        complex_reason=reason,
        approximate=approximate,
        lines=[],
        target=target,
    )


def _not_finite(known: list[Gradient], index: np.ndarray, number: int) -> np.ndarray:
    """Return where some gradient is not finite."""
    values = [g.own[number][index] for g in known if g.own] + [g.wide[number][index] for g in known if g.wide]
    result: np.ndarray = np.any([np.zeros(len(index), bool), *(~np.isfinite(v) for v in values)], axis=0)
    return result


def _remeasured(
    gradient: Gradient,
    found: Estimate,
    index: np.ndarray,
    number: int,
    rtol: float | None,
    largest: np.ndarray,
    natural: np.ndarray,
) -> Gradient:
    """Return a gradient that seems wrong with what rounding does to it measured, operation by operation.

    Where it is off by next to nothing of its leaf: rounding is no excuse for more.
    """
    bad = failures(found, gradient, index, number, rtol, largest)[0]
    apart = judge.distance(gradient.best(number)[index], found)
    near = (apart < 1e-6 * np.maximum(largest, natural)) | (apart < _NOTHING)
    if gradient.rounding is None or gradient.epsilon is None:
        return gradient
    coarse = gradient.epsilon > _COARSE
    if gradient.own is not None:  # of bfloat16, all that is summed up counts
        apart = judge.distance(gradient.own[number][index], found)
        near |= coarse[index] & (apart < _MOST_ROUNDING * gradient.epsilon[index] * largest)
    if not (bad & near).any():
        return gradient
    excused = np.zeros(len(gradient.epsilon))
    excused[index[near]] = gradient.rounding(number)[index[near]]
    return gradient._replace(rounded=excused)


def _blurred(
    found: Estimate,
    known: list[Gradient],
    index: np.ndarray,
    number: int,
    largest: np.ndarray,
    natural: np.ndarray,
) -> np.ndarray:
    """Return where a gradient's own noise is so large that it can be neither right nor wrong.

    Or has taken a float32 one as far off, though its rule is right in float64.
    """
    result = np.zeros(len(index), bool)
    for gradient in known:
        if gradient.noise is None:
            continue
        scale = np.maximum(1e-3 * np.maximum(largest, found.slope), 1e-6 * natural)
        noise = 8 * np.fmax(gradient.noise, gradient.rounded)[index]
        if gradient.wide and gradient.own:
            assert gradient.epsilon is not None
            noise = judge.distance(gradient.own[number][index], found)
            noise = np.where(gradient.epsilon[index] > _COARSE, 0.0, noise)
        result |= noise > np.maximum(0.05 * np.abs(found.value), scale)
    result &= found.status != Status.KINK
    return result


def failures(
    found: Estimate,
    gradient: Gradient,
    index: np.ndarray,
    number: int,
    rtol: float | None,
    largest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where a gradient is wrong, and what its own values, and those in float64, may be off by."""
    wrong = np.zeros(len(index), bool)
    assert gradient.epsilon is not None
    epsilon = gradient.epsilon[index]
    noise = np.zeros(len(index)) if gradient.noise is None else gradient.noise[index]
    rounded = np.broadcast_to(gradient.rounded, gradient.epsilon.shape)[index]
    none = np.full(len(index), np.inf)
    allowed = allowed_wide = none
    if gradient.own is not None:
        rounding = np.fmax(np.abs(np.nan_to_num(found.value)), rounded / 2.0**-52) * epsilon
        rounding = np.maximum(noise, rounding)
        allowed = judge.tolerance(found, rounding, judge.rtol_of(epsilon, rtol, wide=False), largest).allowed
        allowed = allowed + judge.flushed(epsilon)
        wrong |= judge.failed(gradient.own[number][index], found, allowed)
    if gradient.wide:
        narrow = judge.rtol_of(epsilon, rtol, wide=True)
        if gradient.own is not None:  # half precision's noise is not that of the same rule in float64
            noise = np.where(epsilon > _COARSE, 0.0, noise)
        allowed_wide = judge.tolerance(found, np.fmax(noise, rounded), narrow, largest).allowed
        allowed_wide = allowed_wide + np.where(epsilon > 1e-15, _CONSTANTS * epsilon * largest, 0.0)
        values = gradient.wide[number][index]
        wrong |= judge.failed(values, found, allowed_wide)
    if gradient.looked is not None:
        wrong &= gradient.looked[index]
    return wrong, allowed, allowed_wide


def _apart(known: list[Gradient], found: Estimate, index: np.ndarray, number: int) -> np.ndarray:
    """Return where a gradient in float64 is off by more than the error bar and rounding, mattering or not."""
    result = np.zeros(len(index), bool)
    for gradient in known:
        values = gradient.wide or (
            gradient.own if gradient.epsilon is None or gradient.epsilon.max() < 1e-15 else None
        )
        if values:
            noise = 0.0 if gradient.noise is None else np.fmax(gradient.noise, gradient.rounded)[index]
            apart = judge.distance(values[number][index], found) > found.error + 8 * noise
            result |= apart if gradient.looked is None else apart & gradient.looked[index]
    return result


def _confirmed(
    known: list[Gradient],
    found: Estimate,
    index: np.ndarray,
    number: int,
    values: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """Return where the complex step or a gradient in float64 says what the differences say."""
    result = np.zeros(len(index), bool)
    if values is not None:
        result |= np.isfinite(values[0]) & ~judge.denied(found, *values)
    for gradient in known:
        best = gradient.wide or gradient.own
        if best and (gradient.wide or (gradient.epsilon is not None and gradient.epsilon.max() < 1e-15)):
            near = judge.distance(best[number][index], found) <= found.error + 1e-9 * np.abs(found.value)
            result |= near & (found.error < 1e-3 * np.abs(found.value))
    return result


def _too_steep(
    found: Estimate, known: list[Gradient], index: np.ndarray, number: int, values: np.ndarray, size: float
) -> np.ndarray:
    """Return where the complex step and a gradient in float64 tell of a slope too steep for the differences.

    Such as of a chaotic map: in one of their steps f would change by many times its own size.
    """
    result = np.zeros(len(index), bool)
    for gradient in known:
        if best := gradient.wide or gradient.own:
            alike = np.abs(best[number][index] - values) < 0.1 * np.abs(values)
            result |= alike & (np.abs(values) * found.step > 1e3 * size)
    return result


def _settled(
    found: Estimate, values: tuple[np.ndarray, np.ndarray], rows: np.ndarray, decided: Any, wrong: Any
) -> bool:
    """Return whether the complex step decides all that is open, and accuses nobody."""
    sharper, denied = judge.by_complex_step(found, *values, decided(found))
    return denied is None and bool((decided(sharper) & ~wrong(sharper))[rows].all())


def _complex_step(
    target: Target, index: np.ndarray, found: Estimate, good: np.ndarray, bad: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str | None]:
    """Return the complex step's values and errors, or why there are none."""
    needed = ~good | bad
    if target.jaxpr is not None and target.cost.equations > _LARGE and not needed.any():
        return None, "not needed, and f is long to compile"
    # Where the central difference does not decide, where something is wrong, and some of the rest.
    order = np.lexsort((np.random.default_rng(0).permutation(len(index)), ~bad, good))
    some = np.sort(order[: max(_COMPLEX_SAMPLE, int(needed.sum()))])
    values, error = np.full(len(index), np.nan), np.full(len(index), np.inf)
    try:
        values[some], error[some] = complex_step(target, index[some])
    except TypeError as reason:
        return None, str(reason)
    return (values, error), None


def _not_analytic(found: Estimate, values: np.ndarray, row: int, index: np.ndarray) -> str:
    return (
        f"f is not analytic: {values[row]:.6g} for element {index[row]}, where the central difference is "
        f"{found.value[row]:.6g}"
    )


def _approximation(target: Target, index: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how far f's derivative moves where what iterates until it is good enough is run on.

    Nothing where it moves so far that it is no such iteration.
    """
    x = target.flat[index]

    def slopes(there: Target) -> np.ndarray:
        change = there.elements(index, np.stack([x + step, x - step], axis=1)).change
        result: np.ndarray = (change[:, 0] - change[:, 1]) / ((x + step) - (x - step))
        return result

    plain = slopes(target)
    found = [slopes(target.run_on(extra)) for extra in _RUN_ON]
    # What iterates until it is good enough hardly changes any more; what goes on in time, more and more.
    settles = np.abs(found[2] - found[1]) <= np.abs(found[1] - plain)
    run_on = np.where(settles, np.max(np.abs(np.stack(found) - plain), axis=0) / 2, 0.0)
    # What decides by numbers how far it goes is a little ragged; over wide steps that evens out.
    size = scales(target.flat, target.sizes)[index]
    ragged = np.full(len(index), np.inf)
    for level in _WIDE:
        steps = (size * 2.0**-level)[:, None] * HALVINGS
        beside = table(target, index, np.arange(len(index)), x[:, None], steps)
        crossed = ~beside.inside.all(axis=0)
        ragged = np.fmin(ragged, np.where(crossed, np.abs(beside.plain - plain), np.inf))
    apart = np.fmax(*(np.where(some < 0.01 * np.abs(plain), some, 0.0) for some in (run_on, ragged)))
    return np.where(np.isfinite(apart), 4 * apart, 0.0)


def _undersampled(
    target: Target, known: list[Gradient], found: Estimate, index: np.ndarray, rows: np.ndarray, number: int
) -> np.ndarray:
    """Return where f varies from one number to the next as far as it does at all, as sin does at 1e30.

    And a gradient says that it does: what looks like noise around a slope of nothing may be the function.
    """
    some, result = index[rows], np.zeros(len(rows), bool)
    x = target.flat[some]
    gap = np.spacing(np.abs(x))
    steps = np.maximum(found.step[rows], gap)[:, None] * np.array([1, 2, 4, -1, -2, -4])
    wide = np.abs(target.elements(some, x[:, None] + steps).change).max(axis=1)
    near = np.abs(target.elements(some, x[:, None] + gap[:, None] * np.array([1, 2, -1, -2])).change).max(
        axis=1
    )
    unseen = (np.abs(found.value[rows]) <= found.error[rows]) & (found.status[rows] == Status.SMOOTH)
    unseen &= (near > 0.01 * wide) & (near > 1e-6 * abs(target.value))
    for gradient in known:
        result |= unseen & (np.abs(gradient.best(number)[some]) * gap > 0.01 * near)
    return result


def _tied(target: Target, index: np.ndarray, found: Estimate, distance: float) -> Estimate:
    """Return an estimate with the slopes beside the point among the right ones, where f's pieces meet there.

    Where several elements tie, as the equal ones of a median, each may have no slope by itself, though the
    gradients beside the point have; what is between those is right (F. H. Clarke, Optimization and Nonsmooth
    Analysis, 1983). distance: of the points beside, relative to each element.
    """
    rng, scale = np.random.default_rng(0), scales(target.flat, target.sizes)
    step = scale[index] * distance / 256
    low, high, meet = found.low.copy(), found.high.copy(), False
    for _ in range(_BESIDE):
        there = target.moved(
            np.clip(target.flat + distance * scale * rng.normal(size=scale.size), *target.bounds)
        )
        x = there.flat[index]
        ends = there.elements(index, np.stack([x + step, x - step], axis=1))
        slope = (ends.change[:, 0] - ends.change[:, 1]) / ((x + step) - (x - step))
        apt = ~ends.crossed.any(axis=1) & np.isfinite(slope)
        apt &= ends.error.max(axis=1) / step < 1e-2 * np.abs(slope - found.value)
        low, high = np.where(apt, np.fmin(low, slope), low), np.where(apt, np.fmax(high, slope), high)
        meet |= target.decides_otherwise(there)
    wider = meet & ((low < found.low) | (high > found.high)) & (found.status != Status.JUMP)
    return found._replace(
        low=np.where(wider, low, found.low),
        high=np.where(wider, high, found.high),
        status=np.where(wider, Status.KINK, found.status),
    )
