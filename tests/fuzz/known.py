"""Faults of the library that are still open: their cases are not drawn. Empty when there are none."""

from collections.abc import Callable

from fuzz.settings import Case
from lngd import Factors


def is_undamped(case: Case) -> bool:
    options, factors = case.settings.options, case.settings.options.get("factors")
    if isinstance(factors, Factors) and factors.damping_bounds[1] < 1e-6:
        return True
    return any(group.get("damping", 1) < 1e-6 for group in (options, options | (case.settings.overrides or {})))


KNOWN: tuple[tuple[Callable[[Case], bool], str], ...] = (
    (is_undamped, "a singular factor may pass Cholesky by rounding; then all rates can be 0 without a warning"),
)
"""Which cases, and what goes wrong there."""


def is_known(case: Case) -> bool:
    return any(concerns(case) for concerns, _ in KNOWN)
