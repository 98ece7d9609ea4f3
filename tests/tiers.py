"""Which rows of a table `make test` runs; `make test-all` runs the others, so that together they run each row once."""

from collections.abc import Container, Iterable
from typing import Any

import pytest

THREE = ("LNGD", "SpectralLNGD", "KFAC")
"""One method of each kind: a dense factor with a diagonal one, a step of fixed length, two dense factors with sampled labels."""


def tiered(argument: str, rows: Iterable[Any], fast: Container[Any] = THREE) -> pytest.MarkDecorator:
    """A case for each row; those whose names are not in `fast` are slow."""
    slow = pytest.mark.slow
    cases = [row if getattr(row, "__name__", row) in fast else pytest.param(row, marks=slow) for row in rows]
    return pytest.mark.parametrize(argument, cases)
