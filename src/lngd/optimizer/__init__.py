"""The optimizer: measure → refresh → precondition → scale → apply."""

from lngd.optimizer.natural_gradient import NaturalGradient
from lngd.optimizer.outcome import Outcome, Summary

__all__ = ["NaturalGradient", "Outcome", "Summary"]
