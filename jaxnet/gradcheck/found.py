"""What was found of the elements that were looked at, and what excuses them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxnet.gradcheck.estimate import Estimate, Status
from jaxnet.gradcheck.evaluate import Target
from jaxnet.gradcheck.gradients import Gradient


class Lines(NamedTuple):
    """Random directions of one leaf, for one projection of f."""

    failed: list[str]
    resolution: float
    """The error of one element that could have escaped all of them."""


class Round(NamedTuple):
    """What was found of the elements that were looked at, for one projection of f."""

    elements: np.ndarray
    """Their flat numbers."""
    leaf_of: np.ndarray
    estimate: Estimate
    largest: np.ndarray
    """The largest derivative of each element's leaf."""
    natural: np.ndarray
    """f's value over each element's size."""
    decided: np.ndarray
    failed: dict[str, np.ndarray]
    allowed: dict[str, np.ndarray]
    """What each gradient may be off by; of its own values, where it has both."""
    allowed_wide: dict[str, np.ndarray]
    complex_values: np.ndarray | None
    """NaN where it was not taken."""
    complex_reason: str | None
    approximate: float | None
    """How good an approximation f is, relative to its derivative, where numbers decide how far it goes."""
    lines: list[Lines]
    """By leaf; empty where all elements were looked at."""
    target: Target
    excused: Mapping[int, str] = MappingProxyType({})
    """Why a row is undecided, where no numbers say it."""


def chained(
    found: Round, modes: Sequence[str], gradients: list[Gradient], number: int, *, anywhere: bool
) -> np.ndarray:
    """Return where autodiff may be off though no operation's rule is wrong: at kinks, or anywhere.

    As relu's derivatives at 0 in a network of zeros. Who says there what autodiff does is as right.
    """
    kinks = (found.estimate.status == Status.KINK) | anywhere
    modes = [mode for mode in modes if mode in found.failed]
    here: np.ndarray = kinks & np.any([~kinks & kinks, *(found.failed[mode] for mode in modes)], axis=0)
    by_name = {g.name: g.best(number)[found.elements] for g in gradients if g.name in found.failed}
    for name in [name for name in found.failed if name not in modes]:
        near = [
            np.abs(by_name[name] - by_name[mode]) <= found.allowed[name]
            if name in by_name
            else np.zeros(len(kinks), bool)
            for mode in modes
        ]
        here &= ~found.failed[name] | np.any(near, axis=0)
    return here


def undecided_at(rows: np.ndarray, found: Round, reason: str) -> Round:
    """Return a round that does not decide some rows, for a reason."""
    estimate = found.estimate
    return found._replace(
        estimate=estimate._replace(error=np.where(rows, np.inf, estimate.error)),
        decided=found.decided & ~rows,
        failed={name: wrong & ~rows for name, wrong in found.failed.items()},
        excused={int(row): reason for row in np.flatnonzero(rows)},
    )
