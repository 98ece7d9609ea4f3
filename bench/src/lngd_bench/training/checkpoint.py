"""The checkpoint of a run: what its next epoch depends on, in one file beside the record.

The file is a line that names the format, a line with the SHA-256 of the rest, and the rest as `torch.save` writes it. torch
checks no checksum, so a flipped bit in a weight would go unnoticed. Nothing but tensors, numbers, strings and plain
containers is ever unpickled (`weights_only=True`): a checkpoint from a stranger can be wrong but can't run code.
"""

import hashlib
import io
import struct
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError  # the error only, which torch.load raises; nothing here unpickles by itself
from typing import Any

import torch

from lngd_bench import durable
from lngd_bench.training.records import Header

FORMAT = b"lngd checkpoint 1"
MALFORMED = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    struct.error,
    UnpicklingError,
)
"""What torch raises over content that it did not write, found with random changes of a file."""
MAY_DIFFER = {"date", "command"}  # between a run and its continuation


class UnusableCheckpointError(ValueError):
    """A checkpoint that no run can go on from; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """The record's own header, which ties the two files together, and the state of the run."""

    header: Header
    run: dict[str, Any]


def checkpoint_of(record: Path) -> Path:
    """Not `*.jsonl*`, which are records."""
    return record.with_suffix(".checkpoint")


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Replaces the former one at once: a kill leaves the one or the other."""
    buffer = io.BytesIO()
    torch.save({"header": asdict(checkpoint.header), "run": checkpoint.run}, buffer)
    content = buffer.getvalue()
    durable.replace(path, b"\n".join([FORMAT, _digest(content), content]))


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, its tensors on the CPU; None if there is none.

    Raises:
        UnusableCheckpointError: the file is damaged, or it is no checkpoint.
    """
    try:
        form, digest, content = path.read_bytes().split(b"\n", 2)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnusableCheckpointError("it is damaged or no checkpoint") from error
    if form != FORMAT or digest != _digest(content):
        raise UnusableCheckpointError("it is damaged or no checkpoint")
    return _unpacked(content)


def different(found: Header, own: Header) -> str | None:
    """In what two headers are of different runs, or of runs that need not be bit-equal; the machine is part of both."""
    for name in (field.name for field in fields(Header) if field.name not in MAY_DIFFER):
        before, now = getattr(found, name), getattr(own, name)
        if before != now:
            return f"it was made with {name} {before}, now it is {now}"
    return None


def _unpacked(content: bytes) -> Checkpoint:
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return Checkpoint(Header(**found["header"]), found["run"])
    except MALFORMED as error:
        raise UnusableCheckpointError("it is not what this version of lngd saves") from error


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
