"""The gradient cross-checker: independent estimates of one gradient, all against all."""

from jaxnet.gradcheck.check import check_gradients
from jaxnet.gradcheck.locate import Located, Origin, locate
from jaxnet.gradcheck.report import Element, GradientError, GradientReport, Leaf

__all__ = [
    "Element",
    "GradientError",
    "GradientReport",
    "Leaf",
    "Located",
    "Origin",
    "check_gradients",
    "locate",
]
