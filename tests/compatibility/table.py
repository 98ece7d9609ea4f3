"""The compatibility matrix: what real models and training stacks do, by rows, and every method, by columns.

A row is a function that takes a method and fails if the method can't do it. The files `rows_*.py` fill the table; `cells.py` is
where it is complete.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from lngd.methods import EKFAC, KFAC, LNGD, THOR, TKFAC, LNGDLr, LNGDSample, Method, NGPlus, SpectralLNGD

Check: TypeAlias = Callable[[type[Method]], None]
Cell: TypeAlias = tuple[str, str]
"""A row's and a method's name."""
Outcomes: TypeAlias = Mapping[Cell, bool]

METHODS: dict[str, type[Method]] = {
    m.__name__: m for m in (LNGD, SpectralLNGD, LNGDSample, LNGDLr, KFAC, EKFAC, TKFAC, NGPlus, THOR)
}


@dataclass(frozen=True)
class Row:
    """One thing that models or training loops do."""

    group: str
    title: str
    asserts: str
    """What the check holds a method to, in one plain sentence."""
    check: Check


REGISTERED: dict[str, Row] = {}
"""By the check's name, in the order of the imports."""


def group(name: str) -> Callable[[str, str], Callable[[Check], Check]]:
    """The decorator that adds rows to one group: `layers = group("Layers")`, then `@layers("Conv1d", "trains")`."""

    def row(title: str, asserts: str) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            taken = {row.title for row in REGISTERED.values()} | set(REGISTERED)
            assert not {title, check.__name__} & taken, f"there is a row '{title}' or {check.__name__} already"
            REGISTERED[check.__name__] = Row(name, title, asserts, check)
            return check

        return add

    return row
