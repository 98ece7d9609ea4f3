"""Finished runs gathered from directories, each checked: reports compute with their figures and name files after their tasks."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lngd_bench.clock import Clock
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Beginning, Epoch, Header, Record, read_record

LARGEST = 2**26
"""Bytes of a record: a quarter of a million epochs."""
WHOLE = ("total_steps", "steps_an_epoch", "batch_size", "samples")
"""Of a header's configuration, numbers that tables print or multiply by."""


def read_records(directory: Path) -> list[Record]:
    """The finished runs of a directory, by file name; every other file of records gives one warning."""
    return [record for path in sorted(directory.glob("*.jsonl*")) if (record := read_or_warn(path))]


def read_below(directories: Sequence[Path]) -> Iterator[tuple[Path, Record]]:
    """The finished runs of directories and of all that is in them, by path, a file twice named once; the rest gives warnings."""
    found = {path.resolve(): path for directory in directories for path in sorted(directory.rglob("*.jsonl*"))}
    for path in found.values():
        if record := read_or_warn(path):
            yield path, record


def read_or_warn(path: Path) -> Record | None:
    """None, and one warning that names the file, where it holds no finished run."""
    if path.suffix == ".partial":
        warnings.warn(f"{path}: an unfinished run, not counted", stacklevel=4)
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MB")
        record = read_record(path)
        check(record)
        if not record.epochs:
            raise ValueError("it has no epochs")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        warnings.warn(f"{path}: not a readable record, not counted ({reason})", stacklevel=4)
        return None
    return record


def check(run: Record | Beginning) -> None:
    """Raises ValueError, or KeyError where its configuration lacks something, where it has something that no run writes."""
    _check_header(run.header)
    for epoch in run.epochs:
        _check_epoch(epoch)


def _check_header(header: Header) -> None:
    for name in ("task", "optimizer", "torch", "device", "machine", "date", "command", "scoring"):
        _demand(isinstance(getattr(header, name), str), name, getattr(header, name))
    _demand(header.task not in ("", ".", "..") and not set(header.task) & set("/\\\0"), "task", header.task)
    for name in ("seed", "threads"):
        _demand(_is_whole(getattr(header, name)), name, getattr(header, name))
    _demand(_is_number(header.lr), "lr", header.lr)
    _demand(header.damping is None or _is_number(header.damping), "damping", header.damping)
    _demand(header.clock in get_args(Clock), "clock", header.clock)
    _check_config(header.config)


def _check_config(config: Mapping[str, Any]) -> None:
    if not isinstance(config, Mapping):
        raise ValueError(f"config is {type(config).__name__}, not an object")
    _demand(isinstance(config["metric"], str) and config["metric"] in METRICS, "metric", config["metric"])
    for name in WHOLE:
        _demand(_is_whole(config[name]) and config[name] >= 0, name, config[name])
    for name in ("title", "note"):
        _demand(isinstance(config[name], str), name, config[name])
    target = config.get("target")
    _demand(target is None or _is_number(target), "target", target)


def _check_epoch(epoch: Epoch) -> None:
    for name in ("train_loss", "eval_loss", "metric", "largest_norm"):
        value = getattr(epoch, name)
        _demand(value is None or _is_number(value), name, value)
    for name in ("epoch", "step"):
        _demand(_is_whole(getattr(epoch, name)), name, getattr(epoch, name))
    _demand(_is_number(epoch.seconds) and epoch.seconds >= 0, "seconds", epoch.seconds)
    _demand(isinstance(epoch.diverged, bool), "diverged", epoch.diverged)
    _demand(isinstance(epoch.reason, str), "reason", epoch.reason)


def _demand(holds: bool, name: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r:.40}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
