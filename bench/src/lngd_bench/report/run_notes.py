"""`run.md`, for people: what ran in a directory, how far each run is and how to go on, read from the directory's records."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from lngd_bench import archive
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.race import Place
from lngd_bench.training.records import Record, partial_of, read_run
from lngd_bench.training.train import RunSpec

HEADINGS = ("run", "state", "last metric")


class Notes:
    """The page of a directory, written again whenever asked; `again` is the command that goes on."""

    def __init__(self, specs: Sequence[RunSpec], place: Place, again: str) -> None:
        self.names = [spec.file_name for spec in specs]
        self.place, self.again = place, again
        self.over: dict[str, Record] = {}

    def write(self) -> Path:
        path = self.place.out / "run.md"
        archive.put(path, self.text().encode())
        return path

    def text(self) -> str:
        there = sorted(path.name.removesuffix(".partial") for path in self.place.out.glob("*.jsonl*"))
        found = {name: self._read(self.place.out / name) for name in dict.fromkeys([*self.names, *there])}
        runs = {name: record for name, record in found.items() if record or name in self.names}
        headers = [record.header for record in runs.values() if record]
        commands = dict.fromkeys([*(header.command for header in headers), self.place.command])
        ran_on = dict.fromkeys(f"{h.machine}, {h.device}, threads: {h.threads}, torch {h.torch}, {h.clock} time" for h in headers)
        out = shlex.quote(str(self.place.out))
        facts = [f"{len(self.over)} of {len(runs)} runs are over", *ran_on]
        if len(self.over) < len(runs):
            facts.append(f"Go on after the last finished epoch of each run: `{self.again}`")
        facts.append(f"Tables: `lngd table {out}`; figures and page: `lngd figure {out}`")
        if self.place.tensorboard:
            facts.append(f"Every epoch: `tensorboard --logdir {out}/tensorboard`")
        rows = [(Path(name).stem, *_state(record)) for name, record in runs.items()]
        parts = (
            f"# Runs in {self.place.out.name}",
            "\n".join(f"    {command}" for command in commands),
            "\n".join(f"- {fact}" for fact in facts),
            tabulate(rows, HEADINGS, tablefmt="github", disable_numparse=True),
        )
        return "\n\n".join(parts) + "\n"

    def _read(self, path: Path) -> Record | None:
        """A run that is over is read once."""
        if path.name in self.over or not (path.exists() or partial_of(path).exists()):
            return self.over.get(path.name)
        record = read_run(path)
        if record and record.finished:
            self.over[path.name] = record
        return record


def _state(record: Record | None) -> tuple[str, str]:
    if record is None:
        return "waiting", "–"
    config, done = record.header.config, len(record.epochs)
    metrics = [epoch.metric for epoch in record.epochs if epoch.metric is not None]
    metric = f"{config['metric']} {METRICS[config['metric']].text(metrics[-1])}" if metrics else "–"
    if not record.finished:
        return f"unfinished, {done} of {-(-config['total_steps'] // config['steps_an_epoch'])} epochs", metric
    if record.diverged:
        reason = " ".join(record.epochs[-1].reason.split()).replace("|", "\\|")
        return f"diverged in epoch {done}: {reason}", metric
    return "finished", metric
