"""The records of `lngd overhead`: one JSONL file a model and batch, a line an event; later calls add to it.

Of a method that was measured in several calls the last counts, whole.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lngd_bench.clock import clock_of
from lngd_bench.studies.overhead.breakdown import Stage
from lngd_bench.studies.overhead.overhead import Interval
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.training.machine import processor


@dataclass
class Found:
    """What is known of one method.

    Args:
        state_bytes: the optimizer's.
        parameters: how many there are.
        peak_bytes: by which its process grew; None if that was not measured.
        stages: milliseconds of a step by stage; empty for methods that are not ours.
        predicted: the amortised ratio on paper.
    """

    method: str
    intervals: list[Interval] = field(default_factory=list)
    state_bytes: int = 0
    parameters: int = 1
    peak_bytes: int | None = None
    stages: dict[Stage, float] = field(default_factory=dict)
    predicted: float | None = None

    @property
    def bytes_per_parameter(self) -> float:
        """Of optimizer state."""
        return self.state_bytes / self.parameters


@dataclass(frozen=True)
class Conditions:
    """On what a call ran."""

    torch: str
    threads: int
    machine: str
    clock: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        time = "CPU time" if self.clock == "cpu" else "wall-clock time"
        return f"{self.machine}, {threads}, {time}, torch {self.torch}"


@dataclass
class Page:
    """One model and batch: its methods, in the order of their first measurement."""

    workload: Workload
    conditions: list[Conditions] = field(default_factory=list)
    methods: dict[str, Found] = field(default_factory=dict)


def conditions() -> Conditions:
    """Of this process."""
    machine = processor(torch.device("cpu"))
    return Conditions(str(torch.__version__), torch.get_num_threads(), machine, clock_of())


def started(workload: Workload, rounds: int, command: str) -> dict[str, Any]:
    """The event that a call begins with."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    own = {"rounds": rounds, "command": command, "date": date}
    return {"event": "start", "workload": asdict(workload), "conditions": asdict(conditions()), **own}


def append(path: Path, event: dict[str, Any]) -> None:
    """On disk at once: the whole takes long."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def found_events(found: Found) -> dict[str, Any]:
    """The event of a method that is finished."""
    return {"event": "method", **asdict(found)}


def read(path: Path) -> Page | None:
    """A file's page; None if nothing was finished."""
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    starts = [event for event in events if event["event"] == "start"]
    if not starts:
        return None
    seen = dict.fromkeys(Conditions(**start["conditions"]) for start in starts)
    methods = {event["method"]: _found(event) for event in events if event["event"] == "method"}
    return Page(Workload(**starts[-1]["workload"]), [*seen], methods)


def pages(directory: Path) -> Sequence[Page]:
    """Of all files, in the order of their names and batch sizes."""
    read_pages = [page for path in sorted(directory.glob("*.jsonl")) if (page := read(path)) is not None]
    return sorted(read_pages, key=lambda page: (page.workload.name, page.workload.width, page.workload.batch))


def _found(event: dict[str, Any]) -> Found:
    own = {name: value for name, value in event.items() if name not in ("event", "intervals")}
    intervals = [
        Interval(each["method"], each["round"], tuple(each["milliseconds"]), tuple(each["reference"]))
        for each in event["intervals"]
    ]
    return Found(intervals=intervals, **own)
