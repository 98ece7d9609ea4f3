"""The allowed range of every hyperparameter, in one table, and the error for a value outside it."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from lngd.sampling import Fisher, FisherType


def is_number(value: object) -> bool:
    """A finite real number; a bool is not one."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_count(least: int) -> Callable[[object], bool]:
    """A whole number of at least `least`."""
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_fraction(value: Any) -> bool:
    """In [0, 1)."""
    return is_number(value) and 0 <= value < 1


def at_least_zero(value: Any) -> bool:
    """In [0, ∞)."""
    return is_number(value) and value >= 0


def are_bounds(value: Any) -> bool:
    """(ν₁, ν₂) with 0 ≤ ν₁ ≤ ν₂, ν₂ possibly infinite."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and at_least_zero(value[0]) and isinstance(value[1], Real)):
        return False
    return bool(value[0] <= value[1])


def one_of(*names: str) -> Callable[[object], bool]:
    """One of some names."""
    return lambda value: value in names


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (at_least_zero, "a number of 0 or more"),
    "momentum": (is_fraction, "a number in [0, 1)"),
    "weight_decay": (at_least_zero, "a number of 0 or more"),
    "mu": (at_least_zero, "a number of 0 or more"),
    "damping": (at_least_zero, "a number of 0 or more"),
    "damping_bounds": (are_bounds, "a pair (ν₁, ν₂) with 0 ≤ ν₁ ≤ ν₂"),
    "decay": (is_fraction, "a number in [0, 1)"),
    "curvature_every": (is_count(1), "a whole number of 1 or more"),
    "inverse_every": (is_count(1), "a whole number of 1 or more"),
    "refresh_over": (is_count(1), "a whole number of 1 or more"),
    "curvature_ramp": (lambda value: isinstance(value, bool), "True or False"),
    "fisher": (
        lambda value: isinstance(value, FisherType | Fisher),
        "FisherType.LAYERWISE, FisherType.EMPIRICAL or FisherType.SAMPLED (from lngd import FisherType)",
    ),
    "likelihood": (one_of("categorical", "bernoulli", "gaussian"), "'categorical', 'bernoulli' or 'gaussian'"),
    "rate": (one_of("layerwise", "graft", "kl_clip", "constant", "rms"), "'layerwise', 'graft', 'kl_clip', 'constant' or 'rms'"),
    "norm": (one_of("frobenius", "spectral"), "'frobenius' or 'spectral'"),
    "conv_factor": (one_of("kronecker", "full"), "'kronecker' or 'full'"),
    "kl_clip": (lambda value: is_number(value) and value > 0, "a number greater than 0"),
    "warmup": (is_count(0), "a whole number of 0 or more"),
    "smoothing": (is_fraction, "a number in [0, 1)"),
    "rate_samples": (
        lambda value: value is None or is_count(1)(value),
        "None (the whole batch) or a whole number of 1 or more",
    ),
    "curvature_samples": (
        lambda value: value is None or is_count(1)(value),
        "None (the whole batch) or a whole number of 1 or more",
    ),
    "noise": (one_of("rademacher", "gaussian"), "'rademacher' or 'gaussian'"),
    "momentum_on": (one_of("gradient", "nesterov", "update"), "'gradient', 'nesterov' or 'update'"),
    "mean_over": (one_of("batch", "token", "none"), "'batch', 'token' or 'none' (the loss is a sum)"),
    "keep_norms": (lambda value: isinstance(value, bool), "True or False"),
    "max_factor_dim": (is_count(1), "a whole number of 1 or more"),
    "fallback_lr": (lambda value: value is None or at_least_zero(value), "None (lr itself) or a number of 0 or more"),
    "curvature": (lambda value: value is None or isinstance(value, bool), "True, False or None (the layer's default)"),
}


def check_hyperparameters(values: Mapping[str, Any]) -> None:
    """Raises ValueError for the first value out of its range, TypeError for a name that is no hyperparameter."""
    for name, value in values.items():
        if name not in ALLOWED:
            raise TypeError(f"unknown hyperparameter '{name}'; there are: {', '.join(ALLOWED)}")
        valid, allowed = ALLOWED[name]
        if not valid(value):
            raise ValueError(f"{name}={value!r} is out of range: it must be {allowed}")
