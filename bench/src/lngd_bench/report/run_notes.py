"""`run.md`, for people: what ran in a directory, how far each run is and how to go on, read from the directory's records."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tabulate import tabulate

from lngd_bench import archive
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.event_logs import DIRECTORY
from lngd_bench.training.race import Place
from lngd_bench.training.records import Header, Record, read_run
from lngd_bench.training.train import RunSpec

NAME = "run.md"
HEADINGS = ("task", "optimizer", "rate", "damping", "seed", "state", "last metric")


class Notes:
    """The page of a directory, written again whenever asked; `again` is the command that goes on."""

    def __init__(self, specs: Sequence[RunSpec], place: Place, again: str) -> None:
        self.specs = {spec.file_name: spec for spec in specs}
        self.place, self.again = place, again
        self.over: dict[str, Record] = {}

    def write(self) -> Path:
        archive.put(self.place.out / NAME, self.text().encode())
        return self.place.out / NAME

    def text(self) -> str:
        found = {name: record for name in self._names() if (record := self._read(name))}
        waiting = {name: spec for name, spec in self.specs.items() if name not in found}
        tasks = dict.fromkeys([*(spec.task.name for spec in self.specs.values()), *(r.header.task for r in found.values())])
        commands = dict.fromkeys([*(record.header.command for record in found.values()), self.place.command])
        rows = [_cells(name, found.get(name), waiting.get(name)) for name in {**found, **waiting}]
        parts = (
            f"# Runs of {', '.join(tasks)}",
            "\n".join(f"    {command}" for command in commands),
            "\n".join(f"- {fact}" for fact in self._facts(found, len(waiting))),
            tabulate(rows, HEADINGS, tablefmt="github", disable_numparse=True),
        )
        return "\n\n".join(parts) + "\n"

    def _names(self) -> list[str]:
        """Of records: the command's runs, then what else is there."""
        there = sorted(path.name.removesuffix(".partial") for path in self.place.out.glob("*.jsonl*"))
        return list(dict.fromkeys([*self.specs, *there]))

    def _read(self, name: str) -> Record | None:
        """A run that is over is read once."""
        record = self.over.get(name) or read_run(self.place.out / name)
        if record and record.finished:
            self.over[name] = record
        return record

    def _facts(self, found: Mapping[str, Record], waiting: int) -> Iterator[str]:
        over, out = Counter(record.finished for record in found.values())[True], shlex.quote(str(self.place.out))
        state = f"{over} of {len(found) + waiting} runs are over, {len(found) - over} unfinished, {waiting} waiting"
        yield f"{state}, as of {datetime.now(UTC):%Y-%m-%d %H:%M} (UTC)"
        for header in {
            (h.machine, h.device, h.threads, h.torch, h.clock): h for h in (r.header for r in found.values())
        }.values():
            threads = f"{header.threads} thread{'s' * (header.threads != 1)}"
            yield f"{header.machine}, {header.device}, {threads}, torch {header.torch}; seconds are {header.clock} time"
        if over < len(found) + waiting:
            yield f"Go on after the last finished epoch of each run: `{self.again}`"
        yield f"Tables: `lngd table {out}`; figures and page: `lngd figure {out}`"
        if (self.place.out / DIRECTORY).exists():
            yield f"Every epoch: `tensorboard --logdir {out}/{DIRECTORY}`"


def _conditions(header: Header) -> str:
    threads = f"{header.threads} thread{'s' * (header.threads != 1)}"
    return f"{header.machine}, {header.device}, {threads}, torch {header.torch}; seconds are {header.clock} time"


def _cells(name: str, record: Record | None, spec: RunSpec | None) -> tuple[str, ...]:
    """Of a run of which something is recorded, or else of one that waits."""
    run = record.header if record else spec
    assert run, name
    task = run.task if isinstance(run.task, str) else run.task.name
    who = (task, run.optimizer, f"{run.lr:g}", "–" if run.damping is None else f"{run.damping:g}", str(run.seed))
    return (*who, *(_state(record) if record else ("waiting", "–")))


def _state(record: Record) -> tuple[str, str]:
    config, done = record.header.config, len(record.epochs)
    metrics = [epoch.metric for epoch in record.epochs if epoch.metric is not None]
    metric = f"{config['metric']} {METRICS[config['metric']].text(metrics[-1])}" if metrics else "–"
    if not record.finished:
        return f"unfinished, {done} of {-(-config['total_steps'] // max(1, config['steps_an_epoch']))} epochs", metric
    if record.diverged:
        reason = " ".join(record.epochs[-1].reason.split()).replace("|", "\\|")
        return f"diverged in epoch {done}: {reason}", metric
    return "finished", metric
