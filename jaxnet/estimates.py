"""Numerical estimates of a gradient with an error bar for each element, on a flat float64 point.

The workings behind `differentiation.richardson_gradient`, `differentiation.complex_step_gradient` and
`check_gradients`. Everything here runs where x64 is enabled.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnet._probe import NO_COMPLEX, Directions, Probe

PyTree = Any
_EPSILON = 2.0**-53
_RELATIVE_STEP = 2.0**-6  # of the first table, relative to the element
_LEVELS = (
    0,
    -3,
    6,
    3,
    -6,
    -9,
    -12,
    -15,
    -18,
    -24,
    -30,
)  # exponents of two: further tables, relative to the first
_WIDEST = 6
_HALVINGS = np.array([1.0, 0.5, 0.25])
# What of a function of h, sampled at the three steps, remains at h = 0: without its h and h³, or h and h²,
# terms.
_ORIGIN = np.array([1.0, 0.0, 0.0])
_JUMP_WEIGHTS = np.linalg.solve(np.stack([_HALVINGS**0, _HALVINGS, _HALVINGS**3]), _ORIGIN)
_SLOPE_WEIGHTS = np.linalg.solve(np.stack([_HALVINGS**0, _HALVINGS, _HALVINGS**2]), _ORIGIN)
_COMPLEX_STEP = 1e-20
_TINY = 1e-290  # an element below it counts as zero: steps of its own size would be flushed to zero


def noise(probe: Probe, seed: int = 0) -> float:
    """Return the noise of f near the point, as a standard deviation.

    From the differences of order 4 to 6 along three random directions, in which what is smooth vanishes and
    noise remains (J. J. Moré and S. M. Wild, Estimating computational noise, SIAM J. Sci. Comput. 33, 2011);
    at least half a rounding of the value in the narrowest type that f computes in.
    """
    rng = np.random.default_rng(seed)
    epsilon = float(jnp.finfo(probe.narrowest).eps)
    found = [epsilon / 2 * abs(probe.center)]
    scale = np.where(probe.flat == 0, scales(probe.flat, probe.sizes), np.abs(probe.flat))
    # Steps too small for the noise to show give nothing, steps too wide for f to be smooth too much.
    for step in 8 * epsilon * np.array([1e9, 1e6, 1e3]) if epsilon < 1e-15 else [max(1e-6, 8 * epsilon)]:
        squares: dict[int, list[float]] = {4: [], 5: [], 6: []}
        for _ in range(3):
            # To one side only, away from a kink at the point itself.
            values = probe.along(scale * rng.uniform(-1, 1, scale.size), step * np.arange(1.0, 8.0))
            for order, differences in squares.items():
                # The variance of a difference of independent noise is its own times the central binomial.
                variance = np.prod(np.arange(order + 1, 2 * order + 1) / np.arange(1, order + 1))
                differences.extend(np.diff(values, order) ** 2 / variance)
        pooled = [np.sqrt(np.mean(differences)) for differences in squares.values()]
        if np.isfinite(pooled).all() and min(pooled) > 0:
            found.append(min(pooled))
    return float(max(found[0], min(found[1:], default=0.0)))


@dataclass
class Estimate:
    """Central differences, extrapolated, of some elements; every array has one entry for each of them."""

    value: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    """Infinite where f is not finite near the point at any step."""
    step: Float[np.ndarray, " n"]
    """The smallest step of the table that was chosen."""
    slope: Float[np.ndarray, " n"]
    """The largest one-sided slope seen: what a change of f is measured by where the gradient vanishes."""
    confirmed: Bool[np.ndarray, " n"]
    """A narrower table was tried and agrees."""
    flat: Bool[np.ndarray, " n"]
    """f changed by no more than its noise at every step that was tried."""
    kink: Bool[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    """The smaller one-sided slope where there is a kink, elsewhere the value."""
    high: Float[np.ndarray, " n"]


def scales(flat: Float[np.ndarray, " size"], sizes: list[int]) -> Float[np.ndarray, " size"]:
    """Return how large each element is, as a power of two: itself, or its leaf's rms if that is larger."""
    flat = np.where(np.abs(flat) < _TINY, 0.0, flat)
    result = np.ones_like(flat)
    for leaf in np.split(np.arange(flat.size), np.cumsum(sizes)[:-1]):
        values = np.abs(flat[leaf])
        largest = values.max(initial=0)
        if largest:
            result[leaf] = np.maximum(values, largest * np.sqrt(np.mean((values / largest) ** 2)))
    return 2.0 ** np.round(np.log2(result))


def richardson(
    probe: Probe | Directions,
    index: Int[np.ndarray, " n"],
    sigma: float,
    unsettled: Callable[[Estimate], Bool[np.ndarray, " n"]],
) -> Estimate:
    """Return extrapolated central differences of some elements, from as many tables as they need.

    The first table has steps of 1/64, 1/128 and 1/256 of the element; those that are `unsettled` by what is
    known so far get further ones, with steps down to 2^-18 and up to 64 times as wide.
    """
    x, scale = probe.flat[index], scales(probe.flat, probe.sizes)[index]
    own = 2.0 ** np.round(np.log2(np.where(np.abs(x) < _TINY, scale, np.abs(x))))
    everyone = np.ones(len(index), bool)
    plan = [(scale, level, everyone) for level in _LEVELS]
    plan += [(own, level, own < scale / 16) for level in (0, -3, 3)]
    center = probe.center
    tables: list[_Table] = []
    for size, level, apt in plan:
        if tables:
            estimate, look = _choose(tables)
            # Where f did not change at all, only the widest step can tell more.
            narrower = ~estimate.flat | (level == _WIDEST) | np.isinf(estimate.error)
            apt = apt & ((unsettled(estimate) & narrower) | (look & (level < 0)))
        if apt.any():
            rows = np.flatnonzero(apt)
            steps = (size[rows] * _RELATIVE_STEP * 2.0**level)[:, None] * _HALVINGS
            tables.append(_table(probe, index, rows, x[rows, None], steps, center, sigma))
    return _choose(tables)[0]


@dataclass
class _Table:
    value: np.ndarray
    error: np.ndarray
    step: np.ndarray
    slope: np.ndarray
    flat: np.ndarray
    noise: np.ndarray  # the part of the error that does not shrink with the step
    jump: np.ndarray  # between the one-sided slopes, extrapolated to no step
    blur: np.ndarray  # the smallest jump that this table could tell from noise
    low: np.ndarray
    high: np.ndarray


@np.errstate(all="ignore")
def _table(
    probe: Probe | Directions,
    index: np.ndarray,
    rows: np.ndarray,
    x: np.ndarray,
    steps: np.ndarray,
    center: float,
    sigma: float,
) -> _Table:
    above, below = x + steps, x - steps
    f = probe.elements(index[rows], np.concatenate([above, below], axis=1))
    up, down = f[:, :3], f[:, 3:]
    sigma_here = np.maximum(sigma, _EPSILON * np.abs(f).max(axis=1))
    central = (up - down) / (above - below)
    first = (4 * central[:, 1:] - central[:, :-1]) / 3
    value = (16 * first[:, 1] - first[:, 0]) / 15
    change, last_change = np.diff(central, axis=1).T
    # Differences whose h² term dominates shrink by four; then the last extrapolation gains another 15.
    ratio = change / last_change
    regular = (ratio > 2.5) & (ratio < 6.5)
    correction = np.abs(first[:, 1] - first[:, 0])
    truncation = np.where(regular, correction * 2 / 15, correction + np.abs(last_change))
    finest = steps[:, 2]
    error = truncation + 4 * sigma_here / finest
    forward, backward = (up - center) / (above - x), (center - down) / (x - below)
    jump = (forward - backward) @ _JUMP_WEIGHTS
    sides = np.stack([forward @ _SLOPE_WEIGHTS, backward @ _SLOPE_WEIGHTS])
    size = np.abs(np.concatenate([forward, backward], axis=1)).max(axis=1)
    changed = np.abs(f - center).max(axis=1)
    finite = np.isfinite(f).all(axis=1) & np.isfinite(center)

    def spread(values: np.ndarray, missing: float) -> np.ndarray:
        result = np.full(len(index), missing)
        result[rows] = np.where(finite, values, missing)
        return result

    return _Table(
        value=spread(value, np.nan),
        error=spread(error, np.inf),
        step=spread(finest, np.nan),
        slope=spread(size, 0.0),
        flat=spread(changed <= 4 * sigma_here, 1.0) == 1,
        noise=spread(4 * sigma_here / finest, np.inf),
        jump=spread(jump, np.nan),
        blur=spread(40 * sigma_here / finest + 1e-6 * size, np.inf),
        low=spread(sides.min(axis=0), np.nan),
        high=spread(sides.max(axis=0), np.nan),
    )


@np.errstate(all="ignore")
def _choose(tables: list[_Table]) -> tuple[Estimate, np.ndarray]:
    """Return each element's best table, and whether it may have a kink that needs another look."""
    everyone = np.arange(len(tables[0].value))
    stacked = {name: np.stack([getattr(table, name) for table in tables]) for name in _Table.__annotations__}
    value, error, step = stacked["value"], stacked["error"], stacked["step"]
    trusted, confirmed = error.copy(), np.zeros(error.shape, bool)
    for table in range(len(tables)):
        # A narrower table that differs by more than its noise: this one goes past a kink or an oscillation.
        narrower = step < step[table]
        differs = np.abs(value - value[table]) > 3 * (stacked["noise"] + error[table])
        trusted[table][(narrower & differs).any(axis=0)] = np.inf
        confirmed[table] = narrower.any(axis=0)
    best = trusted.argmin(axis=0)
    jump, blur = np.abs(stacked["jump"]), stacked["blur"]
    seen = jump > blur
    largest = np.where(seen, jump, 0).max(axis=0)
    # A kink at the point itself is the same at every step; what shrinks with the step is curvature, or a kink
    # beside the point.
    denied = (np.isfinite(jump) & (jump < largest / 2) & (blur < largest / 4)).any(axis=0)
    possible = seen.any(axis=0) & ~denied
    kink = possible & (seen.sum(axis=0) >= 3)
    finest = np.where(seen, step, np.inf).argmin(axis=0)
    chosen = value[best, everyone]
    return Estimate(
        value=chosen,
        error=error[best, everyone],
        step=step[best, everyone],
        slope=np.where(step >= step[best, everyone], stacked["slope"], 0).max(axis=0),
        confirmed=confirmed[best, everyone],
        flat=np.asarray(stacked["flat"].all(axis=0)),
        kink=kink,
        low=np.where(kink, stacked["low"][finest, everyone], chosen),
        high=np.where(kink, stacked["high"][finest, everyone], chosen),
    ), possible


def complex_step(probe: Probe, index: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return `Im f(x + ih) / h`, free of cancellation, for an analytic f.

    W. Squire and G. Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40,
    1998.

    Raises:
        TypeError: f does not take complex numbers, or takes them and returns a real one.
    """
    x, scale = probe.flat[index], scales(probe.flat, probe.sizes)[index]
    h = _COMPLEX_STEP * np.maximum(np.where(x == 0, scale, np.abs(x)), 1e-100)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a cast that drops the imaginary part only warns
            values = probe.elements(index, (x + 1j * h)[:, None])[:, 0]
    except NO_COMPLEX as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TypeError(f"a real-only operation: {reason}") from error
    return values.imag / h


def mismatch(found: Estimate, values: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return where values are out of the error bars, or, at a kink, not between the one-sided slopes."""
    slack = 3 * found.error + 1e-11 * np.abs(found.value)
    return ~((values >= found.low - slack) & (values <= found.high + slack))
