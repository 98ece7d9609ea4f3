"""docs/compatibility.md, from the outcomes of the cells' tests."""

from collections.abc import Iterator
from pathlib import Path

import torch

from compatibility.cells import CELLS, ROWS
from compatibility.table import METHODS, Outcomes, Row

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
PASSED, FAILED = "✓", "✗"
HEAD = """# What works with which method

Each cell is a test under `tests/compatibility/`, run with small models on a CPU: {passed} if it passed, {failed} if it failed.
`make compatibility` runs them all and writes this page; nobody edits it by hand. Last written with torch {version}:
{count} of {total} cells pass.
"""


def render(outcomes: Outcomes) -> str:
    """The page.

    Raises:
        ValueError: a cell has no outcome.
    """
    missing = [cell for cell in CELLS if cell not in outcomes]
    if missing:
        raise ValueError(f"{len(missing)} of {len(CELLS)} cells were not run, the first is {'-'.join(missing[0])}")
    count = sum(outcomes[cell] for cell in CELLS)
    head = HEAD.format(passed=PASSED, failed=FAILED, version=torch.__version__, count=count, total=len(CELLS))
    return f"{head}\n{tables(outcomes)}"


def tables(outcomes: Outcomes) -> str:
    """One table a group: a line a row, a column a method."""
    groups = list(dict.fromkeys(row.group for row in ROWS.values()))
    return "\n".join("\n".join(_table(group, outcomes)) + "\n" for group in groups)


def _table(group: str, outcomes: Outcomes) -> Iterator[str]:
    yield from (f"## {group}", "")
    yield f"| | {' | '.join(METHODS)} | what is asserted |"
    yield f"|---|{':---:|' * len(METHODS)}---|"
    yield from (_line(name, row, outcomes) for name, row in ROWS.items() if row.group == group)


def _line(name: str, row: Row, outcomes: Outcomes) -> str:
    marks = (PASSED if outcomes[name, method] else FAILED for method in METHODS)
    return f"| {row.title} | {' | '.join(marks)} | {row.asserts} |"
