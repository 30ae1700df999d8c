"""What a wrong gradient looks like, and so probably is: a factor, a transposition, a missing term."""

from collections.abc import Iterator, Sequence

import numpy as np


def find_causes(
    number: int,
    params: np.ndarray,
    batches: set[int],
    wrong: list[np.ndarray],
    right: list[np.ndarray],
    slack: list[np.ndarray],
    shapes: Sequence[tuple[int, ...]],
) -> list[str]:
    """Return every explanation of leaf `number` of a wrong gradient that fits all its elements.

    params: the leaf's own numbers; batches: the lengths of the arguments that are not differentiated. wrong,
    right, slack: the candidate, the numerical gradient and how far right may be off, one flat array
    for each leaf. An explanation must account for the whole leaf within slack, and for much more than slack.
    """
    c, r, s = wrong[number], right[number], slack[number]
    signal = float(np.abs(r).max(initial=0))
    if not np.isfinite(r).all() or not np.isfinite(s).all():
        return []
    bad = ~np.isfinite(c)
    if bad.any():
        return [f"is not finite in {int(bad.sum())} of {c.size} elements"]
    if signal <= 4 * s.max(initial=0):
        return []
    if not c.any():
        return ["is zero: stopped (stop_gradient), or the input is not used"]
    found = list(_arrangements(c, r, s, shapes[number]))
    for other, (mine, theirs) in enumerate(zip(wrong, right, strict=True)):
        if other != number and shapes[other] == shapes[number] and np.isfinite(mine).all():
            fits = _fits(c, theirs, slack[other]) and _fits(mine, r, s)
            if fits and not _fits(r, theirs, s + slack[other]):
                found.append(f"is swapped with that of leaf {other}")
    factor = _factor(c, r, s, batches)
    decay = _decay(c, r, s, params)
    single = [] if factor or decay or found else _precision(c, r, s)
    return [
        text for text in [*([factor] if factor else []), *found, *([decay] if decay else []), *single] if text
    ]


def _fits(one: np.ndarray, other: np.ndarray, slack: np.ndarray | float) -> bool:
    return bool((np.abs(one - other) <= slack).all())


def _arrangements(c: np.ndarray, r: np.ndarray, s: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    grid, wide = r.reshape(shape), float(s.max()) * 2
    if len(shape) == 2 and min(shape) > 1:
        turned = grid.T.reshape(-1)
        if _fits(c, turned, wide):
            yield "is transposed"
    for axis, length in enumerate(shape):
        if length > 1:
            for shift in sorted({1, -1 % length}):
                if _fits(c, np.roll(grid, shift, axis).ravel(), wide):
                    by = "one" if shift == 1 else "minus one"
                    yield f"is rolled by {by} along axis {axis}"
            if length > 2 and _fits(c, np.flip(grid, axis).ravel(), wide):
                yield f"is reversed along axis {axis}"
    if r.size > 1 and (r < -4 * s).any() and (r > 4 * s).any() and _fits(c, np.abs(r), wide):
        yield "has lost its sign: it is the absolute value"


def _factor(c: np.ndarray, r: np.ndarray, s: np.ndarray, batches: set[int]) -> str | None:
    factor = float(c @ r / (r @ r))
    if not np.isfinite(factor) or not _fits(c, factor * r, (1 + abs(factor)) * s):
        return None
    # How well the factor is known: from the elements that stand out of their slack.
    doubt = 4 * (1 + abs(factor)) * float(np.abs(s).max()) / float(np.abs(r).max()) + 1e-9
    known = {-1.0: "the sign is wrong", 2.0: "a factor of ½ is missing", 0.5: "a factor of 2 is missing"}
    known |= {float(n): f"{n} is the batch size, by which it is not divided" for n in batches if n > 2}
    known |= {1 / n: f"it is divided by the batch size, {n}, once too often" for n in batches if n > 2}
    for value, text in known.items():
        if abs(factor - value) <= doubt * max(1, abs(value)):
            return f"is {factor:.6g} times the gradient: {text}"
    if abs(factor - 1) <= doubt:
        return None
    alone = np.count_nonzero(np.abs(r) > 4 * s) < 3  # any number is a factor of one other
    return None if alone else f"is {factor:.6g} times the gradient: a constant factor"


def _decay(c: np.ndarray, r: np.ndarray, s: np.ndarray, p: np.ndarray) -> str | None:
    if p.size < 3 or np.count_nonzero(p) < 3 or np.ptp(np.abs(p)) == 0:
        return None
    rate = float((c - r) @ p / (p @ p))
    if abs(rate) * np.abs(p).max() <= 4 * s.max() or not _fits(c - r, rate * p, 2 * s):
        return None
    kind = "too much" if rate > 0 else "missing"
    return f"has a term proportional to the parameter {kind}, {abs(rate):.6g} times it: weight decay"


def _precision(c: np.ndarray, r: np.ndarray, s: np.ndarray) -> list[str]:
    many = np.mean(np.abs(c - r) > s) >= 0.5  # rounding spares no element
    if many and _fits(c, r, 1e-6 * np.abs(r) + 3e-7 * np.abs(r).max()):
        return ["is right up to float32 precision only"]
    return []
