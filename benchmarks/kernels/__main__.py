"""Measures every idea against what it would replace, on one thread, and writes records and a table.

    python -m benchmarks.kernels --out docs/results/kernels
    python -m benchmarks.kernels --topics polar passes

Topics that are named are measured again, the records of the others stay.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from benchmarks.kernels import applying, batching, moments, passes, polar, precision, trace_rule
from benchmarks.kernels.stopwatch import Case, Row
from benchmarks.kernels.table import page

from lngd_bench.training.machine import processor

RECORDS = "kernels.jsonl"
TOPICS: Mapping[str, Callable[[], Iterator[Case | Row]]] = {
    "applying": applying.applications,
    "packing": applying.packings,
    "precision": precision.cases,
    "stacking": batching.stacked,
    "foreach": batching.foreach,
    "moments": moments.cases,
    "polar": polar.cases,
    "trace": trace_rule.cases,
    "passes": passes.cases,
}


def measured(topic: str) -> Iterator[dict[str, object]]:
    """One record a row, its topic first."""
    start = time.process_time()
    for case in TOPICS[topic]():
        with torch.no_grad():
            row = case.measure() if isinstance(case, Case) else case
        yield {"topic": topic, **asdict(row)}
    print(f"{topic}: {time.process_time() - start:.0f} s of CPU time", file=sys.stderr, flush=True)


def keep(path: Path, topic: str, rows: list[dict[str, object]]) -> None:
    """Replaces the topic's rows and writes the file anew: a run that is broken off keeps what it has."""
    others = [row for row in read(path)[1:] if row["topic"] != topic] if path.exists() else []
    ordered = sorted([*others, *rows], key=lambda row: list(TOPICS).index(str(row["topic"])))
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in [header(), *ordered]))


def read(path: Path) -> list[dict[str, object]]:
    """The header, then the rows."""
    return [json.loads(text) for text in path.read_text().splitlines()]


def header() -> dict[str, object]:
    """A time without its machine says nothing."""
    return {
        "machine": processor(torch.device("cpu")),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.kernels " + " ".join(sys.argv[1:]),
    }


def main() -> None:
    """Runs the topics, writes kernels.jsonl and table.md, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/kernels"), metavar="DIR")
    parser.add_argument("--topics", nargs="+", choices=list(TOPICS), default=list(TOPICS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for topic in given.topics:
        keep(given.out / RECORDS, topic, list(measured(topic)))
    text = page(read(given.out / RECORDS))
    (given.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
