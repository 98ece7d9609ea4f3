"""Measures every idea against what it would replace, on one thread, and writes records and a table.

python -m benchmarks.kernels --out docs/results/kernels
python -m benchmarks.kernels --topics polar passes --out /tmp/kernels
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

from lngd.bench.machine import processor

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


def measured(topics: list[str]) -> Iterator[dict[str, object]]:
    """One record a row, its topic first."""
    for topic in topics:
        start = time.process_time()
        for case in TOPICS[topic]():
            with torch.no_grad():
                row = case.measure() if isinstance(case, Case) else case
            yield {"topic": topic, **asdict(row)}
        print(f"{topic}: {time.process_time() - start:.0f} s of CPU time", file=sys.stderr, flush=True)


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
    records = [header(), *measured(given.topics)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "kernels.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    text = page(records)
    (given.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
