"""The record of a run: a JSON line that says what ran, one line an epoch, one that says it ended.

Reports know nothing else.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

from lngd_bench import durable
from lngd_bench.clock import Clock
from lngd_bench.tasks.metric import METRICS, Metric

Line = TypeVar("Line", "Header", "Epoch")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What ran, with what, on what.

    Attributes:
        damping: None for the optimizer's default.
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
    """A finished run."""

    header: Header
    epochs: tuple[Epoch, ...]

    @property
    def diverged(self) -> bool:
        return any(epoch.diverged for epoch in self.epochs)


@dataclass(frozen=True)
class Beginning:
    """What a run that was broken off has recorded: its header and the epochs from the first on, whole lines only.

    Attributes:
        ends: where in the file the header and each epoch end, in bytes.
    """

    header: Header
    epochs: tuple[Epoch, ...]
    ends: tuple[int, ...]


class RecordWriter:
    """Writes to `*.partial` and gives the file its name only when the run has ended, so a name is a promise.

    Args:
        keep: bytes of a partial file that stay; 0 starts a new one.
    """

    def __init__(self, path: Path, header: Header, keep: int = 0) -> None:
        self.path, self.header, self.keep = path, header, keep
        self.partial = partial_of(path)

    def __enter__(self) -> Self:
        durable.make_directory(self.path.parent)
        self.file: TextIO = self.partial.open("a", encoding="utf-8")
        self.file.truncate(self.keep)
        if not self.keep:
            self._line("start", asdict(self.header))
        return self

    def epoch(self, epoch: Epoch) -> None:
        self._line("epoch", asdict(epoch))

    def end(self) -> None:
        self._line("end", {})
        self.file.close()
        durable.rename(self.partial, self.path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def _line(self, event: str, content: Mapping[str, Any]) -> None:
        """On disk before the next epoch starts: what a killed race has shown is never lost."""
        self.file.write(json.dumps({"event": event, **content}, allow_nan=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


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


def read_record(path: Path) -> Record:
    """One finished run.

    Raises:
        ValueError, TypeError, KeyError: the file is damaged or was not finished.
    """
    lines = list(_lines(path))
    events = [line.pop("event") for line in lines]
    if events != ["start", *["epoch"] * (len(events) - 2), "end"]:
        raise ValueError("it has no beginning or no end")
    return Record(_as(Header, lines[0]), tuple(_as(Epoch, line) for line in lines[1:-1]))


def read_run(path: Path) -> Record | Beginning | None:
    """What is recorded of a run, finished or not; None where nothing is."""
    try:
        return read_record(path)
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return read_beginning(partial_of(path))


def read_beginning(partial: Path) -> Beginning | None:
    """What a partial record holds before its first torn, damaged or unexpected line; None without so much as a header."""
    if not partial.exists():
        return None
    texts = partial.read_bytes().splitlines(keepends=True)
    header = _whole(texts[0], "start", Header) if texts else None
    if header is None:
        return None
    epochs, ends = [], [len(texts[0])]
    for number, text in enumerate(texts[1:], 1):
        epoch = _whole(text, "epoch", Epoch)
        if epoch is None or epoch.epoch != number:
            break
        epochs.append(epoch)
        ends.append(ends[-1] + len(text))
    return Beginning(header, tuple(epochs), tuple(ends))


def _whole(text: bytes, event: str, kind: type[Line]) -> Line | None:
    """None where a kill has torn the line, or it says something else."""
    try:
        line = json.loads(text)
        return _as(kind, line) if text.endswith(b"\n") and line["event"] == event else None
    except (ValueError, TypeError, KeyError):
        return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if not isinstance(line, dict):
            raise TypeError(f"a line is {type(line).__name__}, not an object")
        yield line


def _as(kind: type[Line], line: dict[str, Any]) -> Line:
    """Old versions leave out the fields that they do not know, new ones have defaults for those that old records lack."""
    return kind(**{field.name: line[field.name] for field in fields(kind) if field.name in line})
