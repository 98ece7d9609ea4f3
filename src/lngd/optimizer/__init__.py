"""The optimizer: measure → refresh → average → precondition → size → apply."""

from lngd.optimizer.hyperparameters import Factors, Schedule
from lngd.optimizer.natural_gradient import NaturalGradient
from lngd.optimizer.parameters import Outcome, Summary

__all__ = ["Factors", "NaturalGradient", "Outcome", "Schedule", "Summary"]
