"""Inputs of every kind that a gradient checker was once wrong about, and what its report must say of each.

Nothing is computed before a kind is called. What is expected is an answer by mathematics, not by a run.
"""

from kinds import alarms, exceptions, options, passes, precision
from kinds.catalogue import KINDS

__all__ = ["KINDS", "alarms", "exceptions", "options", "passes", "precision"]
