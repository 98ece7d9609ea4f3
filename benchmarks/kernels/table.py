"""Records as markdown: one table a topic, findings without times as a list of their own columns."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

Record = Mapping[str, Any]
TIMED = ("idea", "size", "instead of", "ms before", "ms", "ratio", "quartiles", "verdict")


def page(records: Sequence[Record]) -> str:
    """Of a header and its rows."""
    head, *rows = records
    lines = [
        "# What was tried for speed",
        "",
        f"{head['machine']} ({head['capability']}), {head['threads']} thread, torch {head['torch']}, {head['date']}. "
        "CPU time, medians of interleaved pairs; ratio is new / old with its quartiles: below 1 is faster.",
        "",
        f"    {head['command']}",
    ]
    for topic, group in groupby(rows, key=lambda row: row["topic"]):
        lines += ["", f"## {topic}", *tables(list(group))]
    return "\n".join(lines) + "\n"


def tables(rows: list[Record]) -> Iterator[str]:
    """Rows with the same columns stand together, each table in the order of its first row."""
    shapes: dict[tuple[bool, tuple[str, ...]], list[Record]] = {}
    for row in (r for r in rows if r["ratio"] is not None or columns(r)):
        shapes.setdefault((row["ratio"] is not None, columns(row)), []).append(row)
    for (timed, names), group in shapes.items():
        titles = (*(TIMED if timed else TIMED[:2]), *names)
        yield from ("", line(titles), line(["---"] * 2 + ["---:"] * (len(titles) - 2)))
        yield from (line([*cells(row, timed), *(number(row["figures"][name]) for name in names)]) for row in group)


def columns(row: Record) -> tuple[str, ...]:
    """Figures that fit into a cell; a series stays in the records."""
    return tuple(name for name, value in row["figures"].items() if not isinstance(value, list))


def cells(row: Record, timed: bool) -> list[str]:
    if not timed:
        return [row["idea"], row["size"]]
    low, high = row["quartiles"]
    return [
        row["idea"],
        row["size"],
        row["against"],
        number(row["old_ms"]),
        number(row["new_ms"]),
        f"{row['ratio']:.2f}",
        f"{low:.2f}–{high:.2f}",
        row["verdict"],
    ]


def number(value: object) -> str:
    """Three significant digits; a cosine near one keeps its distance from it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and 0.999 < value < 1:
        return f"1 − {1 - value:.1e}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"
