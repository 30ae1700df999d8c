"""Numerical estimates of a gradient, with an error bar for each element, from the values of a function alone.

The workings behind `differentiation.richardson_gradient`, `differentiation.complex_step_gradient` and
`check_gradients`. Everything here runs where x64 is enabled.
"""

import warnings
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnet.gradcheck.evaluate import NO_COMPLEX, Movable, Target

_EPSILON = 2.0**-53
_TINY = 1e-290  # an element below it counts as zero: steps of its own size would be flushed to zero
_MANY = 2_000  # elements, of which less is looked at
_NO_DOUBT = 1e-4  # an error so small, of the element itself
_SMALLEST = 1e-305  # what differences lose where numbers underflow
_COMPLEX_STEP = 1e-40
# By how much more than it was seen to an error bar lets the noise of f move a difference, and how much more
# it moves a one-sided one.
_NOISE, _ONE_SIDED = 16.0, 4.0
HALVINGS = np.array([1.0, 0.5, 0.25])
# What of a function of h, sampled at the three steps, remains at h = 0: without its h and h³, or h and h²,
# terms.
_ORIGIN = np.array([1.0, 0.0, 0.0])
_JUMP_WEIGHTS = np.linalg.solve(np.stack([HALVINGS**0, HALVINGS, HALVINGS**3]), _ORIGIN)


class Ladder(NamedTuple):
    """The steps that are tried: h, h/2 and h/4 for h = 2^-level of the element's scale."""

    first: tuple[int, ...] = (6, 12, 18)
    """For all elements: one to estimate, narrower ones to confirm it and to show the noise."""
    further: tuple[int, ...] = (9, 15, 3, 24, 30, 36, 42, 48, 60, 80, 100)
    """For those that are not settled; never wider than an eighth."""
    own: tuple[int, ...] = (6, 12, 18, 3, 24, 30, 36)
    """Of the element itself, where that is far below its leaf's scale."""


class Status(IntEnum):
    """What a function does at an element."""

    SMOOTH = 0
    KINK = 1
    """Its one-sided slopes differ: what is between them is right."""
    EDGE = 2
    """It is finite on one side only: the slope of that side is right."""
    JUMP = 3
    """It is not continuous: there is no derivative."""
    NOT_FINITE = 4
    """It is finite at no step."""


class Estimate(NamedTuple):
    """Central differences, extrapolated, of some elements; every array has one entry for each of them."""

    value: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    """The true derivative is not further away; infinite where f is not finite near the point at any step."""
    low: Float[np.ndarray, " n"]
    """The smaller one-sided slope where there is a kink, elsewhere the value."""
    high: Float[np.ndarray, " n"]
    step: Float[np.ndarray, " n"]
    """The smallest step of the table that was chosen."""
    slope: Float[np.ndarray, " n"]
    """The largest one-sided slope in a table that is not denied: what no gradient is to be compared with."""
    status: Int[np.ndarray, " n"]
    jump: Float[np.ndarray, " n"]
    """How far f jumps there."""
    confirmed: Bool[np.ndarray, " n"]
    """A narrower table was tried and agrees."""


def scales(flat: Float[np.ndarray, " size"], sizes: list[int]) -> Float[np.ndarray, " size"]:
    """Return how large each element is, as a power of two: itself, or its leaf's rms if that is larger."""
    flat = np.where(np.abs(flat) < _TINY, 0.0, flat)
    result = np.ones_like(flat)
    for leaf in np.split(np.arange(flat.size), np.cumsum(sizes)[:-1]):
        values = np.abs(flat[leaf])
        largest = values.max(initial=0)
        if largest:
            result[leaf] = np.maximum(values, largest * np.sqrt(np.mean((values / largest) ** 2)))
    rounded: np.ndarray = 2.0 ** np.round(np.log2(result))
    return rounded


def richardson(
    target: Movable,
    index: Int[np.ndarray, " n"],
    unsettled: Callable[[Estimate], Bool[np.ndarray, " n"]],
    ladder: Ladder | None = None,
    noise: float = 0.0,
) -> Estimate:
    """Return extrapolated central differences of some elements, from as many tables as they need.

    Elements that are `unsettled` by what is known so far get further tables. noise: how far f's values may be
    off, at least; what they are is seen in the tables themselves.
    """
    ladder = ladder or Ladder()
    x, scale = target.flat[index], scales(target.flat, target.sizes)[index]
    own = 2.0 ** np.round(np.log2(np.where(np.abs(x) < _TINY, scale, np.abs(x))))
    everyone, many = np.ones(len(index), bool), len(index) > _MANY
    refuses = isinstance(target, Target) and target.calls_back
    plan = [(scale, level, everyone) for level in (*ladder.first, *ladder.further)]
    plan += [(own, level, own < scale / 16) for level in ladder.own]
    tables: list[Table] = []
    at_kink: np.ndarray | None = None
    chosen: tuple[Estimate, np.ndarray] | None = None
    for number, (size, level, apt) in enumerate(plan):
        if many and number:  # what does not move f at all does not over a narrower step either
            moved = ~(tables[0].reach.max(axis=0) <= tables[0].rounding.max(axis=0))
        if many and number == 1:
            apt = moved
        elif number >= (2 if many else len(ladder.first)):
            found, look = chosen = chosen or _choose(tables, at_kink, target.value, noise, refuses)
            if at_kink is not None:
                look &= ~at_kink  # a kink at the point itself, as those before have it
            open_ = unsettled(found) | (look & (level > ladder.first[0]))
            if number < len(ladder.first):  # of many, two tables do for those that they leave no doubt about
                open_ |= moved & (found.error > _NO_DOUBT * np.abs(found.value))
            apt = apt & open_
            if not apt.any():
                continue
            if at_kink is None and level >= 24:
                at_kink = _crosses_beside(target, index, x, scale)
        rows = np.flatnonzero(apt)
        steps = (size[rows] * 2.0**-level)[:, None] * HALVINGS
        tables.append(table(target, index, rows, x[rows, None], steps))
        chosen = None
    found = (chosen or _choose(tables, at_kink, target.value, noise, refuses))[0]
    if isinstance(target, Target) and target.sharp:
        found = found._replace(error=found.error + _NOISE * _wobble(target, index, found.step))
    return found


def _wobble(target: Target, index: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how a central difference varies with the rounding of what f computes at the point itself.

    Every difference is taken from there, and none of them shows it; the same differences at points beside do
    (J. J. Moré and S. M. Wild, Estimating computational noise, SIAM J. Sci. Comput. 33, 2011).
    """
    rng = np.random.default_rng(0)
    result = np.zeros(len(index))
    for size in (2.0**-28, 2.0**-20) if len(index) <= _MANY else (2.0**-28,):
        move = (
            target.flat * rng.uniform(0.5, 1, target.flat.size) * rng.choice([-size, size], target.flat.size)
        )
        found, apt = [], np.ones(len(index), bool)
        for distance in range(6):
            # Not quite evenly: the sawtooth of a rounding may else look like a line.
            uneven = distance + 2.0**-35 / size * rng.uniform(0, 1)
            there = target.moved(target.flat + uneven * move)
            x = there.flat[index]
            ends = there.elements(index, np.stack([x + step, x - step], axis=1))
            found.append((ends.change[:, 0] - ends.change[:, 1]) / ((x + step) - (x - step)))
            apt &= ~target.elements(index, x[:, None]).crossed[:, 0]
        # What is smooth vanishes in differences of order 2 to 4; the variance of noise grows.
        apart = [
            np.diff(found, order, axis=0) / variance**0.5 for order, variance in ((2, 6), (3, 20), (4, 70))
        ]
        most = np.abs(np.concatenate(apart)).max(axis=0)
        result = np.fmax(result, np.where(np.isfinite(most) & apt, most, 0.0))
    return result


def _crosses_beside(target: Movable, index: np.ndarray, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return where f decides otherwise as near to the point as numbers are."""
    tiny = np.where(x == 0, scale * 2.0**-120, 2 * np.spacing(np.abs(x)))
    beside = target.elements(index, np.stack([x + tiny, x - tiny], axis=1))
    result: np.ndarray = (beside.crossed & np.isfinite(beside.change)).any(axis=1)
    return result


class Table(NamedTuple):
    """Differences at three steps, of all elements; NaN, or an infinite error, for those it is not of."""

    value: np.ndarray
    plain: np.ndarray  # the same, whatever f decides
    truncation: np.ndarray
    once: np.ndarray  # [2, n]: extrapolated once, from the wider two and from the narrower two steps
    step: np.ndarray  # the finest
    uneven: np.ndarray  # [2, n]: what the noise moves f by, from what of f is even in the step
    rounding: np.ndarray  # [2, n]: how far off rounding makes f, to the right and to the left
    sides: np.ndarray  # [2, n]: the slopes to the right and to the left
    side_once: np.ndarray  # [2, 2, n]: on the way there, as `once`
    side_truncation: np.ndarray  # [2, n]
    jump: np.ndarray  # between the one-sided slopes, extrapolated to no step
    slope: np.ndarray  # the largest of the one-sided ones
    refused: np.ndarray  # [2, n]: on that side f is not finite
    inside: np.ndarray  # [2, n]: on that side f decides as it does at the point itself
    leap: np.ndarray  # [2, n]: how far f moves over the finest step ...
    reach: np.ndarray  # [2, n]: ... and over the widest


@np.errstate(all="ignore")
def table(target: Movable, index: np.ndarray, rows: np.ndarray, x: np.ndarray, steps: np.ndarray) -> Table:
    """Return the differences of some rows of elements, at x and three steps of each."""
    above, below = x + steps, x - steps
    moved = target.elements(index[rows], np.concatenate([above, below], axis=1))
    up, down = moved.change[:, :3], moved.change[:, 3:]
    central = (up - down) / (above - below)
    value, once, truncation = _extrapolated(central, 4.0)
    even = up + down - central * (above - 2 * x + below)
    forward, backward = up / (above - x), down / (below - x)
    sides = [_extrapolated(side, 2.0) for side in (forward, backward)]
    inside = ~np.stack([moved.crossed[:, :3].any(axis=1), moved.crossed[:, 3:].any(axis=1)])
    # A step that is lost in the element's own rounding shows nothing.
    exact = (above[:, 2] > x[:, 0]) & (below[:, 2] < x[:, 0])
    finite_side = np.isfinite(np.stack([up, down])).all(axis=2)
    smooth = finite_side.all(axis=0) & inside.all(axis=0)

    def spread(values: np.ndarray, missing: float, where: np.ndarray) -> np.ndarray:
        result = np.full((*values.shape[:-1], len(index)), missing)
        result[..., rows] = np.where(where & exact, values, missing)
        return result

    return Table(
        value=spread(value, np.nan, smooth),
        plain=spread(value, np.nan, finite_side.all(axis=0)),
        truncation=spread(truncation, np.inf, smooth),
        once=spread(once.T, np.nan, smooth),
        step=spread((above - x)[:, 2], np.nan, finite_side.any(axis=0)),
        uneven=spread(np.abs(even[:, :-1] - 4 * even[:, 1:]).T / 4, 0.0, finite_side.all(axis=0)),
        rounding=spread(np.stack([moved.error[:, :3], moved.error[:, 3:]]).max(axis=2), 0.0, finite_side),
        sides=spread(np.stack([side[0] for side in sides]), np.nan, finite_side),
        side_once=spread(np.stack([side[1].T for side in sides], axis=1), np.nan, finite_side),
        side_truncation=spread(np.stack([side[2] for side in sides]), np.inf, finite_side),
        jump=spread((forward - backward) @ _JUMP_WEIGHTS, np.nan, finite_side.all(axis=0)),
        slope=spread(
            np.abs(np.concatenate([forward, backward], 1)).max(axis=1), np.nan, finite_side.any(axis=0)
        ),
        refused=spread(np.ones(finite_side.shape), 0.0, ~finite_side) == 1,
        inside=spread(inside.astype(float), 0.0, finite_side) == 1,
        leap=spread(np.abs(np.stack([up, down])[:, :, 2]), np.nan, finite_side),
        reach=spread(np.abs(np.stack([up, down])[:, :, 0]), np.nan, finite_side),
    )


def _extrapolated(differences: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return differences at three steps extrapolated to none, on the way there, and how far off that may be.

    ratio: by how much the first term of their error shrinks with half the step. How far off: by truncation
    alone.
    """
    first = (ratio * differences[:, 1:] - differences[:, :-1]) / (ratio - 1)
    second = ratio**2 if ratio == 4 else 2 * ratio
    value = (second * first[:, 1] - first[:, 0]) / (second - 1)
    change, last = np.diff(differences, axis=1).T
    correction = np.abs(first[:, 1] - first[:, 0])
    # Differences whose first term dominates shrink by the ratio; then the last extrapolation gains as much.
    regular = (change / last > 0.6 * ratio) & (change / last < 1.6 * ratio)
    return value, first, np.where(regular, correction * 4 / second, 3 * (correction + np.abs(last)))


@np.errstate(all="ignore")
def _choose(
    tables: list[Table], at_kink: np.ndarray | None, middle: float, noise: float, refuses: bool
) -> tuple[Estimate, np.ndarray]:
    """Return each element's best table, and whether it may have a kink that needs another look."""
    t = Table(*(np.stack(column) for column in zip(*tables, strict=True)))
    count = t.value.shape[1]
    everyone = np.arange(count)
    floor = np.maximum(noise, t.rounding.max(axis=1))  # [tables, n]
    # Where a step changes nothing though a wider one does, rounding has swallowed its change.
    still = np.nan_to_num(t.reach).max(axis=1) == 0
    lost = still & (~still & t.inside.all(axis=1)).any(axis=0)
    if refuses:  # what f takes no other number for, steps below the precision of its own type do not show
        lost |= still & t.refused.any(axis=(0, 1))
    t = t._replace(value=np.where(lost, np.nan, t.value), sides=np.where(lost[:, None], np.nan, t.sides))
    central = _rated(t.value, t.truncation, t.once, t.uneven, t.step, floor, 1.0)
    best = central.error.argmin(axis=0)
    value, error, step = (array[best, everyone] for array in (t.value, central.error, t.step))
    status = np.full(count, int(Status.SMOOTH))

    # One-sided slopes: where the other side is another piece, or not finite.
    side = [
        _rated(
            t.sides[:, s],
            t.side_truncation[:, s],
            t.side_once[:, :, s],
            0 * t.uneven,  # a kink makes it so
            t.step,
            floor,
            _ONE_SIDED,
        )
        for s in (0, 1)
    ]
    near = [np.where(t.inside[:, s], side[s].error, np.inf) for s in (0, 1)]
    edge = np.isinf(t.side_truncation).all(axis=0)  # [2, n]
    # Where f decides otherwise at every step, as between equals that rounding tells apart, it may be a kink.
    at = np.zeros(count, bool) if at_kink is None else at_kink | ~t.inside.any(axis=(0, 1))
    for s in (0, 1):
        chosen = near[s].argmin(axis=0)
        other = edge[1 - s] & ~edge[s]
        found = near[s][chosen, everyone]
        better = (found < error) & ~at & ((at_kink is not None) | other)
        value = np.where(better, t.sides[chosen, s, everyone], value)
        error = np.where(better, found, error)
        step = np.where(better, t.step[chosen, everyone], step)
        status[better & other] = Status.EDGE

    # A kink at the point itself is the same at every step; what shrinks with the step is curvature, or a kink
    # beside the point.
    jump = np.abs(t.jump)
    blur = 2 * side[0].noise + 2 * side[1].noise + 1e-6 * t.slope
    seen = jump > blur
    largest = np.where(seen, jump, 0).max(axis=0)
    denied = (np.isfinite(jump) & (jump < largest / 2) & (blur < largest / 4)).any(axis=0)
    possible = seen.any(axis=0) & ~denied
    chosen = [side[s].error.argmin(axis=0) for s in (0, 1)]
    slopes = np.stack([t.sides[chosen[s], s, everyone] for s in (0, 1)])
    slope_error = np.stack([side[s].error[chosen[s], everyone] for s in (0, 1)]).max(axis=0)
    kink = (possible & (seen.sum(axis=0) >= 3)) | (at & np.isfinite(slope_error))
    apart = kink & (np.abs(slopes[0] - slopes[1]) > slope_error)
    low = np.where(kink, slopes.min(axis=0), value)
    high = np.where(kink, slopes.max(axis=0), value)
    value = np.where(kink, slopes.mean(axis=0), value)
    error = np.where(kink, slope_error, error)
    status[apart] = Status.KINK

    # A jump is as far over fine steps as over wide ones.
    steady = (t.leap > 0.8 * t.reach) & (t.leap < 1.25 * t.reach) & (t.leap > 1e-9 * abs(middle))
    leap = np.where(steady, t.leap, 0.0).max(axis=0)
    alike = steady & (t.leap > 0.6 * leap) & (t.leap < 1.6 * leap)
    narrowest = np.where(alike, t.step[:, None], np.inf).argmin(axis=0)
    leap = np.take_along_axis(t.leap, narrowest[None], axis=0)[0]  # free of the slopes beside it
    tried = np.isfinite(t.leap).sum(axis=0)  # [2, n]
    jumps = (alike.sum(axis=0) >= 4) & (alike.sum(axis=0) > 0.6 * tried)
    jumped = jumps.any(axis=0) & (np.isinf(error) | kink | (error > np.abs(value)))
    status[jumped] = Status.JUMP
    status[np.isinf(t.side_truncation).all(axis=(0, 1))] = Status.NOT_FINITE
    chosen_step = np.where(kink, t.step[chosen, everyone].min(axis=0), step)
    narrow = ((t.step < chosen_step).sum(axis=0) <= 1) & (tried.max(axis=0) > 4)
    size = np.maximum(np.abs(low), np.abs(high))
    last = ((status == Status.EDGE) | narrow) & (size > 0)
    return Estimate(
        value=value,
        # At an end of f, or over the narrowest steps alone, an error as large as the slope is that of a slope
        # without end, as a root's.
        error=np.where(np.isnan(value) | jumped | (last & (error > size / 10)), np.inf, error),
        low=low,
        high=high,
        step=step,
        slope=np.where(central.error < t.slope / 2, t.slope, 0.0).max(axis=0),
        status=status,
        jump=np.where(jumped, np.where(jumps, leap, 0).max(axis=0), 0.0),
        confirmed=central.confirmed[best, everyone],
    ), possible


class _Rated(NamedTuple):
    error: np.ndarray  # [tables, n], infinite where a narrower table denies it
    noise: np.ndarray  # the part of it that does not shrink with the step
    confirmed: np.ndarray  # there is a narrower table


@np.errstate(all="ignore")
def _rated(
    value: np.ndarray,
    truncation: np.ndarray,
    once: np.ndarray,
    uneven: np.ndarray,
    step: np.ndarray,
    floor: np.ndarray,
    factor: float,
) -> _Rated:
    """Return how far off each table's values may be, of central or one-sided differences.

    The noise of f at an element is what narrower tables are off by, times their step, and what is uneven in
    them; of the narrowest, by what it is off itself. A narrower table that differs by more than its noise
    denies a wider one, which goes past a kink or an oscillation.
    """
    noise, confirmed = np.empty(value.shape), np.zeros(value.shape, bool)
    measured = np.isfinite(value)
    for table in range(len(value)):
        narrower = (step < step[table]) & measured
        confirmed[table] = narrower.any(axis=0)
        seen = np.where(confirmed[table], narrower, step == step[table])
        off = np.abs(
            np.stack([value, 2 * once[:, 0], once[:, 1]]) - value[table] * np.array([1, 2, 1])[:, None, None]
        )
        moved = np.fmax(np.nan_to_num(off).max(axis=0) * step / factor, uneven.max(axis=1))
        own = np.fmax(_NOISE * np.where(seen, moved, 0.0).max(axis=0), 2 * floor[table])
        noise[table] = factor * own / step[table] + 4 * _EPSILON * np.abs(value[table])
    error = np.where(np.isnan(value), np.inf, truncation + noise + _SMALLEST / step)
    # By its own scatter alone the narrowest is not known to be right, least of all if the rest are denied.
    error = np.where(confirmed, error, np.where(measured.sum(axis=0) > 3, np.inf, 4 * error))
    rated = error.copy()
    for table in range(len(value)):
        narrower = (step < step[table]) & measured
        differs = np.abs(value - value[table]) > noise + error[table]
        rated[table][(narrower & differs).any(axis=0)] = np.inf
    return _Rated(rated, noise, confirmed)


def complex_step(
    target: Target, index: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return `Im f(x + ih) / h`, free of cancellation, for an analytic f, and how far off rounding takes it.

    W. Squire and G. Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40,
    1998. Its rounding is measured a few roundings beside the point.

    Raises:
        TypeError: f does not take complex numbers, or takes them and returns a real one.
    """
    x, h = _imaginary(target, index)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a cast that drops the imaginary part only warns
            near = np.stack([x, x * (1 + 2 * 2.0**-52), x * (1 - 3 * 2.0**-52), x], axis=1)
            steps = h[:, None] * np.array([1, 1, 1, 2])
            found = target.elements(index, near + 1j * steps).change.imag / steps
    except NO_COMPLEX as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TypeError(f"a real-only operation: {reason}") from error
    # The last by what it is off itself, h² where the function is a cube at 0.
    values, spread = found[:, 0], np.abs(found[:, 1:] - found[:, :1]).max(axis=1)
    return values, 4 * np.where(np.isfinite(spread), spread, 0) + 32 * _EPSILON * np.abs(values)


def _imaginary(target: Target, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, scale = target.flat[index], scales(target.flat, target.sizes)[index]
    return x, _COMPLEX_STEP * np.maximum(np.where(np.abs(x) < _TINY, scale, np.abs(x)), 1e-250)


def complex_rounding(
    target: Target, index: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return how far random roundings take the complex step: numbers near a point may all round alike."""
    x, h = _imaginary(target, index)
    apart = target.blurred(index, x + 1j * h).imag / h[:, None] - values[:, None]
    result: np.ndarray = 4 * np.nan_to_num(np.abs(apart)).max(axis=1)
    return result


def mismatch(found: Estimate, values: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return where values are out of the error bars, or, at a kink, not between the one-sided slopes."""
    slack = found.error + 1e-11 * np.abs(found.value)
    result: np.ndarray = ~((values >= found.low - slack) & (values <= found.high + slack))
    return result
