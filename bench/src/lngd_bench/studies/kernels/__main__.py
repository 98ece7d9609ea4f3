"""Measures an idea against what it would replace, on one thread, and prints tables; what was found is told in a page.

    python -m lngd_bench.studies.kernels --out results
    python -m lngd_bench.studies.kernels --topics polar passes
    python -m lngd_bench.studies.kernels --show --out results

Topics that are named are measured again; the records of others stay, and of ideas that are no longer measured.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import torch

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.studies.kernels import passes, polar
from lngd_bench.studies.kernels.passes import Record
from lngd_bench.studies.results import MISSING, text
from lngd_bench.training.machine import processor

NAME = "kernels.jsonl"
TOPICS = {"moments": passes.moments, "polar": polar.cases, "passes": passes.passes}
TIMED = ("idea", "size", "instead of", "ms before", "ms", "ratio", "quartiles", "verdict")


def header() -> Record:
    """A time without its machine says nothing."""
    return {
        "machine": processor(torch.device("cpu")),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m lngd_bench.studies.kernels " + " ".join(sys.argv[1:]),
    }


def tables(lines: Sequence[Record]) -> Iterator[str]:
    """A header and its rows; rows of a topic with the same columns stand together."""
    head, *rows = lines
    yield f"{head['machine']} ({head['capability']}), {head['threads']} thread, torch {head['torch']}, {head['date']}."
    yield "CPU time, medians of interleaved pairs; ratio is new / old with its quartiles: below 1 is faster."
    kinds = groupby(sorted(rows, key=_kind), key=_kind)
    for (topic, timed, names), group in kinds:
        if timed or names:
            cells = [[*_cells(row), *(_figure(row["figures"][name]) for name in names)] for row in group]
            yield f"\n{topic}\n{text([*(TIMED if timed else TIMED[:2]), *names], cells, words=3 if timed else 2)}"


def _kind(row: Record) -> tuple[str, bool, tuple[str, ...]]:
    """Topic, whether times were taken, and the figures that fit into a cell."""
    names = tuple(name for name, value in row["figures"].items() if not isinstance(value, list))
    return str(row["topic"]), row["ratio"] is not None, names


def _identity(row: Record) -> tuple[str, ...]:
    """What is measured again takes the place of what was; ideas that nothing measures any more stay."""
    return tuple(str(row.get(name)) for name in ("topic", "idea", "size", "against"))


def _cells(row: Record) -> list[str]:
    if row["ratio"] is None:
        return [row["idea"], row["size"]]
    low, high = row["quartiles"]
    times = [_figure(row["old_ms"]), _figure(row["new_ms"]), f"{row['ratio']:.2f}", f"{low:.2f}–{high:.2f}"]
    return [row["idea"], row["size"], row["against"], *times, row["verdict"]]


def _figure(value: object) -> str:
    """Three significant digits; a cosine near one keeps its distance from it."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and 0.999 < value < 1:
        return f"1 − {1 - value:.1e}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measures, packs the records after each topic, and prints all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"), metavar="DIR", help="where kernels.jsonl.gz is")
    parser.add_argument("--topics", nargs="+", choices=list(TOPICS), default=list(TOPICS))
    parser.add_argument("--show", action="store_true", help="measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = given.out / f"{NAME}.gz"
    for topic in [] if given.show else given.topics:
        with torch.no_grad():
            new = [{"topic": topic, **row} for row in TOPICS[topic]()]
        rows = archive.read(path)[NAME][1:] if path.exists() else []
        again = {_identity(row) for row in new}
        archive.write(path, {NAME: [header(), *(row for row in rows if _identity(row) not in again), *new]})
        print(f"{topic} is measured", file=sys.stderr, flush=True)
    print("\n".join(tables(archive.read(path)[NAME])))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
