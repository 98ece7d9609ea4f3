"""The complete table, in the page's order: importing a file of rows adds them."""

from compatibility import (
    rows_attention,
    rows_checkpointing,
    rows_convolutions,
    rows_hooks,
    rows_layers,
    rows_low_precision,
    rows_safety,
    rows_sharing,
    rows_stack,
    rows_state,
)
from compatibility.table import METHODS, REGISTERED, Cell, Row

FILES = (
    rows_layers,
    rows_convolutions,
    rows_attention,
    rows_sharing,
    rows_stack,
    rows_checkpointing,
    rows_low_precision,
    rows_hooks,
    rows_safety,
    rows_state,
)
ROWS: dict[str, Row] = {n: row for file in FILES for n, row in REGISTERED.items() if row.check.__module__ == file.__name__}
CELLS: list[Cell] = [(row, method) for row in ROWS for method in METHODS]
