"""Faults of the library that are still open: their cases are not drawn. Empty when there are none."""

from collections.abc import Callable

from fuzz.settings import Case

KNOWN: tuple[tuple[Callable[[Case], bool], str], ...] = ()
"""Which cases, and what goes wrong there."""


def is_known(case: Case) -> bool:
    return any(concerns(case) for concerns, _ in KNOWN)
