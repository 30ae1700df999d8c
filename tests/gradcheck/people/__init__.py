"""A catalogue of functions as people write them, in float32 and in float64, to judge a gradient checker by.

The right gradient of each is its own autodiff gradient; the wrong one has one leaf 2 % too large.
Nothing is built, and no library beyond jax and NumPy imported, before a case is asked for.
"""

# In this order their cases are numbered.
from people import networks, modules, likelihoods, dynamics, algebra, programs, images, scales  # isort: skip
from people.catalogue import CASES, Case, right_gradient, wrong_gradient

__all__ = ["CASES", "Case", "right_gradient", "wrong_gradient"]
__all__ += ["algebra", "dynamics", "images", "likelihoods", "modules", "networks", "programs", "scales"]
