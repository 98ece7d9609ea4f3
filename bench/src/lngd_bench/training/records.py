"""The record of a run: a JSON line that says what ran, one line an epoch, one that says it ended.

Reports know nothing else. A record has the name `*.jsonl.partial` until its run has ended, so a name is a promise.
"""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lngd_bench import archive
from lngd_bench.clock import Clock
from lngd_bench.tasks.metric import METRICS, Metric

if TYPE_CHECKING:
    import pandas

Line = TypeVar("Line", "Header", "Epoch")
NEEDED = {"metric", "title", "note", "total_steps", "steps_an_epoch", "batch_size", "samples"}
"""Of a header's configuration, what reports print or compute with."""
UNREADABLE = (ValueError, TypeError, KeyError)
"""What a file that is no record raises."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What ran, with what, on what.

    Attributes:
        defaults: the fingerprint of all hyperparameters that nobody set, of a method of ours.
        damping, rest: None for the optimizer's default; see `Setting`.
        scoring: by what rules the metric was computed, where it has several.
        clock: what its seconds are of, `cpu` or `wall`; records from before there was a choice are `wall`.
    """

    task: str
    optimizer: str
    seed: int
    lr: float
    config: Mapping[str, Any]
    torch: str
    device: str
    threads: int
    machine: str
    date: str
    command: str
    clock: Clock = "wall"
    damping: float | None = None
    rest: float | None = None
    defaults: str = ""
    scoring: str = ""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch; what is not finite is None.

    Attributes:
        train_loss: mean over the epoch's training batches, as each was before its step.
        seconds: of this epoch's training; evaluation is not counted.
        reason: why a diverged run ended.
        largest_norm: of any parameter tensor; a norm that grows without bound shows here long before the loss does.
    """

    epoch: int
    step: int
    train_loss: float | None
    eval_loss: float | None
    metric: float | None
    seconds: float
    diverged: bool = False
    reason: str = ""
    largest_norm: float | None = None


@dataclass(frozen=True)
class Record:
    """What is recorded of a run, which is over if `finished`."""

    header: Header
    epochs: tuple[Epoch, ...]
    finished: bool = True

    @property
    def diverged(self) -> bool:
        return any(epoch.diverged for epoch in self.epochs)


def begin(path: Path, header: Header, epochs: Iterable[Epoch] = ()) -> None:
    """A partial record of the epochs that an earlier process has run, in the place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_of(path).write_bytes(b"")
    _add(path, "start", asdict(header))
    for epoch in epochs:
        add(path, epoch)


def add(path: Path, epoch: Epoch) -> None:
    _add(path, "epoch", asdict(epoch))


def end(path: Path) -> None:
    """The record takes its name."""
    _add(path, "end", {})
    partial_of(path).replace(path)


def _add(path: Path, event: str, content: Mapping[str, Any]) -> None:
    with partial_of(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **content}, allow_nan=False) + "\n")


def partial_of(record: Path) -> Path:
    """Where the record of a run is written until the run has ended."""
    return record.with_name(f"{record.name}.partial")


def best_metric(record: Record) -> float | None:
    """Over the epochs of a run; None where not one was finite."""
    found = [epoch.metric for epoch in record.epochs if epoch.metric is not None]
    return metric_of(record).best(found) if found else None


def metric_of(record: Record) -> Metric:
    return METRICS[record.header.config["metric"]]


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def read_runs(source: Path, *, below: bool = True) -> dict[str, Record]:
    """The finished runs of a directory or an archive, by file name; every other file of records gives one warning.

    `below`: files in folders of it count, too.

    Raises:
        BenchError: there is no such directory or archive.
    """
    if source.is_dir():
        paths = sorted(source.rglob("*.jsonl*") if below else source.glob("*.jsonl*"))
        named = {path.relative_to(source).as_posix(): path for path in paths if path.suffix in (".jsonl", ".partial")}
        files: Mapping[str, Sequence[dict[str, Any]]] = {name: _whole_lines(path) for name, path in named.items()}
    else:
        files = archive.read(source, below=below)
    found = {name: _finished_or_warning(source / name, lines) for name, lines in files.items()}
    return {name: record for name, record in found.items() if record}


def read_records(source: Path) -> list[Record]:
    """The finished runs that lie in a directory or an archive itself."""
    return list(read_runs(source, below=False).values())


def read_below(sources: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """The finished runs of directories and archives and of all that is in them, a file that is there twice once."""
    seen = set()
    for source in dict.fromkeys(source.resolve() for source in sources):
        for name, record in read_runs(source).items():
            if (path := (source / name).resolve()) not in seen:
                seen.add(path)
                yield path, record


def frame(records: Mapping[str, Record]) -> "pandas.DataFrame":
    """A row an epoch, for those who compute with records; pandas is imported here since it takes half a second."""
    import pandas

    run = ("task", "optimizer", "seed", "lr", "damping", "rest")
    figures = ("epoch", "step", "train_loss", "eval_loss", "metric", "seconds", "diverged")
    rows = (
        [name, *(getattr(record.header, key) for key in run), *(getattr(epoch, key) for key in figures)]
        for name, record in records.items()
        for epoch in record.epochs
    )
    return pandas.DataFrame(rows, columns=["file", *run, *figures]).astype({"damping": float, "rest": float})


def read_record(path: Path) -> Record:
    """One finished run; raises one of UNREADABLE where the file is damaged or was not finished."""
    return _finished(_whole_lines(path))


def read_run(path: Path) -> Record | None:
    """What is recorded of a run under that name or as a partial record; None where nothing is that can be read."""
    for name in (path, partial_of(path)):
        if name.exists():
            try:
                return _record(_whole_lines(name))
            except UNREADABLE:
                continue
    return None


def _finished_or_warning(path: Path, lines: Sequence[dict[str, Any]]) -> Record | None:
    if path.suffix == ".partial":
        warnings.warn(f"{path}: an unfinished run, not counted", stacklevel=4)
        return None
    try:
        return _finished(lines)
    except UNREADABLE as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        warnings.warn(f"{path}: not a readable record, not counted ({reason})", stacklevel=4)
        return None


def _finished(lines: Sequence[dict[str, Any]]) -> Record:
    record = _record(lines)
    if not record.finished:
        raise ValueError("it has no end")
    if not record.epochs:
        raise ValueError("it has no epochs")
    return record


def _record(lines: Sequence[dict[str, Any]]) -> Record:
    events = [line["event"] for line in lines]
    finished = events[-1:] == ["end"]
    if events != ["start", *["epoch"] * (len(events) - 1 - finished), *["end"] * finished]:
        raise ValueError("it has no beginning or no end")
    header = _as(Header, lines[0])
    if missing := NEEDED - set(header.config):
        raise KeyError(", ".join(sorted(missing)))
    if header.config["metric"] not in METRICS:
        raise ValueError(f"metric is {header.config['metric']!r}")
    return Record(header, tuple(_as(Epoch, line) for line in lines[1 : len(lines) - finished]), finished)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Those before the first that is no JSON object: a kill may have torn the last."""
    lines: list[dict[str, Any]] = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def _as(kind: type[Line], line: Mapping[str, Any]) -> Line:
    """Old versions leave out the fields that they do not know, new ones have defaults for those that old records lack."""
    return kind(**{field.name: line[field.name] for field in fields(kind) if field.name in line})
