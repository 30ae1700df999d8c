"""Assertions for a user's own tests."""

import warnings
from collections.abc import Callable
from typing import Any

from jaxnet.gradcheck import GradientReport, check_gradients


class InconclusiveWarning(UserWarning):
    """A gradient that could be neither confirmed nor refuted."""


def assert_gradients(
    f: Callable[..., Any], *args: Any, strict: bool = False, **options: Any
) -> GradientReport:
    """Check the gradient of f at args as `check_gradients` does, and fail with its report if it is wrong.

    strict: fail too where the check is inconclusive, which otherwise warns. Returns the report. Raises
    GradientError, an AssertionError, and what `check_gradients` raises.

    >>> import jax.numpy as jnp, numpy as np
    >>> assert_gradients(lambda x: jnp.sum(jnp.tanh(x)), np.array([0.5, 1.0])).verdict
    'pass'
    """
    __tracebackhide__ = True
    report = check_gradients(f, *args, **options)
    report.raise_if_failed()
    if report.verdict == "inconclusive":
        if strict:
            report.raise_unless_passed()
        warnings.warn(InconclusiveWarning(str(report)), stacklevel=2)
    return report
