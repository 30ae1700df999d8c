"""Random directions of a leaf, which show what no element that is looked at does."""

from typing import Any

import numpy as np

from jaxnet.gradcheck import judge
from jaxnet.gradcheck.estimate import Estimate, Status, richardson, scales
from jaxnet.gradcheck.evaluate import Directions, Target
from jaxnet.gradcheck.found import Lines, Round
from jaxnet.gradcheck.gradients import Gradient
from jaxnet.gradcheck.problem import Problem

DIRECTIONS = 12  # random ones of each leaf of a larger pytree


def random_directions(problem: Problem, target: Target, seed: int) -> list[np.ndarray]:
    """Return random directions, so many for each leaf.

    All elements of a leaf move by as much, in random senses: an error in any single one shows in each.
    """
    rng = np.random.default_rng(seed + 1)
    scale = scales(target.flat, target.sizes)
    found = []
    for start, size in zip(problem.starts, problem.sizes, strict=False):
        unit = float(scale[start : start + size].min()) if size else 1.0
        for _ in range(DIRECTIONS):
            direction = np.zeros(target.flat.size)
            direction[start : start + size] = unit * rng.choice([-1.0, 1.0], size)
            found.append(direction)
    return found


def compare_lines(
    problem: Problem,
    looked: Round,
    gradients: list[Gradient],
    directions: list[np.ndarray],
    number: int,
    rtol: float | None,
    noise: float,
    slopes: list[Any],
    exhaustive: bool,
) -> list[Lines]:
    """Compare slopes along random directions of each leaf, but at a kink, where they need not add up."""
    lines = Directions(looked.target, lambda row: directions[row], len(directions))

    def unsettled(found: Estimate) -> np.ndarray:
        result: np.ndarray = ~found.confirmed | (found.error > 1e-8 * np.abs(found.value))
        return result

    rows = np.arange(len(directions))
    found = richardson(lines, rows, unsettled, noise=noise * abs(looked.target.value))
    result = []
    for leaf, size in enumerate(problem.sizes):
        here = slice(leaf * DIRECTIONS, (leaf + 1) * DIRECTIONS)
        if not size:
            result.append(Lines([], 0.0))
            continue
        some = Estimate(*(column[here] for column in found))
        error = np.where(some.status == Status.KINK, np.inf, some.error)
        moves = np.stack(directions[here])
        unit = float(np.abs(moves).max())
        failed, resolution = [], 0.0
        for gradient in gradients:
            if gradient.unavailable is not None or (exhaustive and gradient.looked is None):
                continue
            assert gradient.epsilon is not None and gradient.noise is not None
            matters = 1e-2 * judge.rtol_of(gradient.epsilon, rtol, wide=bool(gradient.wide)).max()
            # What the elements that were looked at are off by, and pass, the others may be.
            off = judge.distance(gradient.best(number)[looked.elements], looked.estimate)
            off = off[(looked.leaf_of == leaf) & looked.decided & ~looked.failed[gradient.name]]
            off = off[np.isfinite(off)]
            rounding = matters * np.sqrt(np.mean(np.nan_to_num(some.value) ** 2))
            rounding = rounding + 4 * unit * np.sqrt(size * (off**2).sum() / max(off.size, 1))
            if gradient.looked is not None:
                mine = np.asarray(slopes[number])[here]
                rounding = rounding + 1e-11 * np.abs(some.value) + 1e-13 * unit * size
            else:
                best = gradient.best(number)
                mine = moves @ best
                blur = 2.0**-52 * best if gradient.wide else np.hypot(gradient.epsilon * best, gradient.noise)
                rounding = rounding + 8 * np.sqrt(moves**2 @ np.nan_to_num(blur) ** 2)
            allowed = error + rounding
            if (np.isfinite(allowed) & ~(np.abs(mine - some.value) <= allowed)).any():
                failed.append(gradient.name)
            resolution = max(resolution, float(np.min(allowed)) / unit)
        result.append(Lines(failed, resolution))
    return result
