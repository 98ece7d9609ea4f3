"""Columns on a terminal under a rule, for the commands whose tables are no race's."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def plain_table(headings: Sequence[str], rows: Iterable[Iterable[str]], *, words: int, gap: int = 1) -> Table:
    """`words`: the first so many columns are text; a long name in the first takes two lines. `gap`: spaces between columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < words else "right", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row)
    return table
