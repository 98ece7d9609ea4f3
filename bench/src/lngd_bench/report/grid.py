"""Rows of cells, the first of them headings, as text: aligned for a terminal, or Markdown."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

GAP = 2  # spaces between columns
Grid = Sequence[Sequence[str]]


class Dispensable(Protocol):
    """A column; `dispensable` is how early it goes when the terminal is too narrow, 0 is never."""

    @property
    def dispensable(self) -> int: ...


Kind = TypeVar("Kind", bound=Dispensable)


def fitting(columns: Sequence[Kind], grid_of: Callable[[Sequence[Kind]], Grid], room: int) -> list[Kind]:
    """The columns that fit, after the most dispensable ones have gone."""
    shown = list(columns)
    while width(grid_of(shown)) > room and any(column.dispensable for column in shown):
        shown.remove(max(shown, key=lambda column: column.dispensable))
    return shown


def width(grid: Grid) -> int:
    """Characters of an aligned line."""
    return sum(max(map(len, column)) for column in zip(*grid, strict=True)) + GAP * (len(grid[0]) - 1)


def aligned(grid: Grid) -> list[str]:
    """Lines with a rule under the headings; the first column is words, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [_line(row, widths) for row in grid]
    rule = (" " * GAP).join("─" * size for size in widths)
    return [lines[0], rule, *lines[1:]]


def markdown(grid: Grid, *, numbers: bool = True) -> str:
    """`numbers`: all columns but the first are."""
    head, *rows = grid
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(size) for cell, size in rest)]
    return (" " * GAP).join(cells).rstrip()
