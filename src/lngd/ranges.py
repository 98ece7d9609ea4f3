"""The allowed range of every number and name that a user can give, in one table, and the error for a value outside it."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import Tensor


def is_number(value: object) -> bool:
    """A finite real number or a tensor of one; a bool is not one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and (value.device.type != "cpu" or math.isfinite(float(value)))
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_count(least: int) -> Callable[[object], bool]:
    """A whole number of at least `least`."""
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_fraction(value: Any) -> bool:
    """In [0, 1)."""
    return is_number(value) and 0 <= value < 1


def at_least_zero(value: Any) -> bool:
    """In [0, ∞)."""
    return is_number(value) and ((isinstance(value, Tensor) and value.device.type != "cpu") or value >= 0)


def are_bounds(value: Any) -> bool:
    """(ν₁, ν₂) with 0 ≤ ν₁ ≤ ν₂, ν₂ possibly infinite."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and at_least_zero(value[0]) and isinstance(value[1], Real)):
        return False
    return bool(value[0] <= value[1])


def are_betas(value: Any) -> bool:
    """Two numbers in [0, 1)."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_fraction, value))


def one_of(*names: str) -> tuple[Callable[[object], bool], str]:
    """One of some names."""
    return lambda value: value in names, " or ".join(map(repr, names))


NOT_NEGATIVE = (at_least_zero, "a number of 0 or more")
POSITIVE = (lambda value: is_number(value) and value > 0, "a number greater than 0")
FRACTION = (is_fraction, "a number in [0, 1)")
COUNT = (is_count(1), "a whole number of 1 or more")
SOME_OR_ALL = (lambda value: value is None or is_count(1)(value), "None (the whole batch) or a whole number of 1 or more")
YES_OR_NO = (lambda value: isinstance(value, bool), "True or False")

ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": NOT_NEGATIVE,
    "momentum": FRACTION,
    "weight_decay": NOT_NEGATIVE,
    "damping": NOT_NEGATIVE,
    "decay": FRACTION,
    "adamw_lr_ratio": NOT_NEGATIVE,
    "adamw_betas": (are_betas, "two numbers in [0, 1)"),
    "adamw_eps": NOT_NEGATIVE,
    "curvature": (lambda value: value is None or isinstance(value, bool), "True, False or None (the layer's default)"),
    "warmup": (is_count(0), "a whole number of 0 or more"),
    "momentum_on": one_of("gradient", "nesterov", "update"),
    "mean_over": one_of("batch", "token", "none"),
    "batch_dim": (lambda value: is_count(0)(value) or callable(value), "a whole number of 0 or more, or a function"),
    "keep_norms": YES_OR_NO,
    "curvature_every": COUNT,
    "inverse_every": COUNT,
    "ramp": YES_OR_NO,
    "refresh_over": COUNT,
    "samples": SOME_OR_ALL,
    "mu": NOT_NEGATIVE,
    "smoothing": FRACTION,
    "max_move": (lambda value: value == math.inf or (is_number(value) and value > 0), "a number greater than 0, or inf"),
    "kl": POSITIVE,
    "rms": POSITIVE,
    "base_width": (lambda value: value is None or is_count(1)(value), "None or a whole number of 1 or more"),
    "eps": NOT_NEGATIVE,
    "max_dim": COUNT,
    "convolution": one_of("kronecker", "full"),
    "raw_damping": (lambda value: value is None or (is_number(value) and value > 0), "None or a number greater than 0"),
    "damping_bounds": (are_bounds, "a pair (ν₁, ν₂) with 0 ≤ ν₁ ≤ ν₂"),
}


def check(values: Mapping[str, Any]) -> None:
    """Raises ValueError for the first value out of its range."""
    for name, value in values.items():
        valid, allowed = ALLOWED[name]
        if not valid(value):
            raise out_of_range(name, value, allowed)


def out_of_range(name: str, value: object, allowed: str) -> ValueError:
    """The error for such a value."""
    return ValueError(f"{name}={value!r} is out of range: it must be {allowed}")
