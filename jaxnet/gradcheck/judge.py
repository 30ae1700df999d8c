"""Arrays in, verdicts out: what an estimate with an error bar says of a gradient's elements."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnet.gradcheck.estimate import Estimate, Status

# A difference matters beyond so much of the element, by the epsilon of the type that computes it; of what is
# run in float64 though written for another type, whose constants are rounded to it, beyond the second.
_RTOL = {2.0**-52: (1e-7, 1e-7), 2.0**-23: (1e-3, 1e-4), 2.0**-10: (3e-2, 5e-3), 2.0**-7: (1e-1, 5e-3)}
_ROUNDINGS = 8.0  # times its measured noise may a gradient be off
_RESOLUTION = 2e-3  # of an element: an error bar wider than that decides nothing, ...
_LEAF_RESOLUTION = 1e-7  # ... but where it is no more than this of its leaf's largest
_SMALLEST = 1e-290  # nothing, whatever it is compared with
FLUSHED = 2.0**-126  # float32's and bfloat16's smallest normal number: what is below it XLA makes 0
_NATURAL = 1e-6  # of f's value over the element's size, or of its slopes beside: as good as nothing


class Tolerance(NamedTuple):
    """What one gradient may be off by, at each element."""

    error: Float[np.ndarray, " n"]
    """The error bar, and what rounding explains."""
    matters: Float[np.ndarray, " n"]
    """A difference that is no more than this passes with a note."""

    @property
    def allowed(self) -> np.ndarray:
        """What is not a failure."""
        result: np.ndarray = np.maximum(self.error, self.matters)
        return result


def rtol_of(epsilon: np.ndarray, asked: float | None, *, wide: bool) -> np.ndarray:
    """Return the relative tolerance of elements computed in types of some epsilon; or what is asked for."""
    table = np.array(sorted(_RTOL))
    row = np.minimum(np.searchsorted(table, epsilon), len(table) - 1)
    default = np.array([_RTOL[key][wide] for key in table])[row]
    return (
        default
        if asked is None
        else np.maximum(asked, default if wide else np.where(epsilon > 1e-15, default, 0))
    )


def leaf_largest(found: Estimate, leaf_of: Int[np.ndarray, " n"], leaves: int) -> Float[np.ndarray, " n"]:
    """Return, for each element, the largest derivative of its leaf that is known to be there."""
    largest = np.zeros(leaves)
    known = np.isfinite(found.value) & (found.error < 0.1 * np.abs(found.value))
    np.maximum.at(largest, leaf_of[known], np.abs(found.value[known]))
    result: np.ndarray = largest[leaf_of]
    return result


def resolved(
    found: Estimate,
    largest: Float[np.ndarray, " n"],
    natural: Float[np.ndarray, " n"],
    rtol: float | None = None,
    spread: float | Float[np.ndarray, " n"] = 0.0,
) -> Bool[np.ndarray, " n"]:
    """Return where an estimate decides: where an error of 2 % would be seen, or of four times a larger rtol.

    natural: f's value over each element's size. spread: what of the error is f's own as an approximation, of
    which only the leaf's larger elements can show much.
    """
    size = np.abs(np.nan_to_num(found.value))
    error = found.error - np.where(spread <= _RESOLUTION * largest, spread, 0.0)
    fine = error <= np.maximum(max(_RESOLUTION, (rtol or 0) / 4) * size, _LEAF_RESOLUTION * largest)
    nothing = (size <= found.error) & (found.error <= _NATURAL * np.maximum(natural, found.slope))
    result: np.ndarray = (
        (fine | nothing | (found.error < _SMALLEST))
        & (found.status != Status.JUMP)
        & np.isfinite(found.error)
    )
    return result


def tolerance(
    found: Estimate,
    noise: Float[np.ndarray, " n"],
    rtol: Float[np.ndarray, " n"],
    largest: Float[np.ndarray, " n"],
) -> Tolerance:
    """Return what a gradient of some noise may be off by.

    Beyond rtol of the element itself; of its leaf's largest, where the element is zero but for rounding.
    """
    size = np.maximum(np.abs(np.nan_to_num(found.low)), np.abs(np.nan_to_num(found.high)))
    error = found.error + _ROUNDINGS * noise
    return Tolerance(error, rtol * np.where(size <= error, largest, size))


def flushed(epsilon: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return what numbers of types of some epsilon lose where they are flushed to zero."""
    return np.where(epsilon > 1e-15, FLUSHED, 0.0)


def distance(values: Float[np.ndarray, " n"], found: Estimate) -> Float[np.ndarray, " n"]:
    """Return how far values are from the estimate, or from the one-sided slopes of a kink."""
    outside = np.maximum(found.low - values, values - found.high)
    return np.where(np.isfinite(values), np.maximum(outside, 0.0), np.inf)


def failed(
    values: Float[np.ndarray, " n"], found: Estimate, allowed: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return the elements that are wrong: off by more than allowed, where the estimate is finite."""
    known = np.isfinite(found.error) & (found.status != Status.JUMP)
    result: np.ndarray = known & (distance(values, found) > allowed + _SMALLEST)
    return result


def digits(values: Float[np.ndarray, " n"], found: Estimate) -> Float[np.ndarray, " n"]:
    """Return to how many digits values agree with the estimate, 16 at the most."""
    size = np.maximum(np.abs(values), np.abs(found.value))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(size > 0, distance(values, found) / size, 0.0)
        result: np.ndarray = np.clip(np.nan_to_num(-np.log10(relative), posinf=16.0), 0.0, 16.0)
        return result


def merged(found: Estimate, sharper: Estimate, rows: Int[np.ndarray, " m"]) -> Estimate:
    """Return an estimate with some rows replaced by a better one of them."""
    columns = {}
    for name in Estimate._fields:
        column = getattr(found, name).copy()
        column[rows] = getattr(sharper, name)
        columns[name] = column
    return Estimate(**columns)


def denied(
    found: Estimate, values: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return where the complex step is out of the error bars, or, at a kink, not between the slopes."""
    slack = found.error + error + 1e-11 * np.abs(found.value)
    inside = (values >= found.low - slack) & (values <= found.high + slack)
    result: np.ndarray = np.isfinite(values) & ~inside & (found.status != Status.JUMP)
    return result


def by_complex_step(
    found: Estimate,
    values: Float[np.ndarray, " n"],
    error: Float[np.ndarray, " n"],
    decided: Bool[np.ndarray, " n"],
) -> tuple[Estimate, int | None]:
    """Return an estimate sharpened by the complex step, or the row that shows that f is not analytic.

    values: NaN where it was not taken. It has to agree wherever the central difference decides; then it
    decides where that does not.
    """
    taken, outside = np.isfinite(values), denied(found, values, error)
    if (outside & decided).any():
        return found, int(np.argmax(outside & decided))
    inside = ~outside
    smooth = (found.status == Status.SMOOTH) | (found.status == Status.EDGE)
    better = taken & smooth & inside & (error < found.error)
    return found._replace(
        value=np.where(better, values, found.value),
        low=np.where(better, values, found.low),
        high=np.where(better, values, found.high),
        error=np.where(better, error, found.error),
    ), None
