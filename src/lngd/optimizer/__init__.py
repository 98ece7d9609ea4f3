"""The optimizer: measure → refresh → average → precondition → size → apply."""

from lngd.optimizer.hyperparameters import Factors, Recipe, Schedule
from lngd.optimizer.natural_gradient import NaturalGradient
from lngd.optimizer.parameters import Outcome, Summary

__all__ = ["Factors", "NaturalGradient", "Outcome", "Recipe", "Schedule", "Summary"]
