"""The binary CIFAR-10 format: records of a label byte and 3,072 pixel bytes, the red, green and blue planes of 32×32.

The archive is read as it is, in one pass; its members are known by their exact names and nothing of it is unpacked to the disk.
It comes from elsewhere: a member's size is checked before it is read, the whole unpacks to no more than it should, and it is
read to its end, where its checksum stands.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.limited import Limited

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
FILES = (*TRAIN, *TEST)
RECORDS = 10_000  # of each file
CLASSES = 10
PIXELS = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
BESIDES = 2**20  # bytes of an archive that are not the six files: the names of the classes, a page, headers
MEMBERS = 100  # looked at; the archive has nine
DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, RecursionError)
"""What a garbled archive raises; the last three are no documented part of tarfile, but the tests of strange headers meet them."""

Records = Iterator[tuple[str, Tensor]]
"""A file's name and its rows of bytes: a label, then the pixels."""


def read(path: Path) -> Records:
    """The six files of a directory, or of an archive in its own order.

    Raises:
        BenchError: one is missing, damaged, of another size, or has a label that does not exist.
    """
    return _from_archive(path) if path.is_file() else _from_directory(path)


def _from_directory(directory: Path) -> Records:
    for name in FILES:
        path = directory / name
        try:
            with path.open("rb") as file:
                _check_size(path.stat().st_size, str(path))
                content = file.read(RECORDS * RECORD)
        except OSError as error:
            raise BenchError(f"{path}: {error.strerror or error}") from error
        yield name, _rows(content, str(path))


def _from_archive(path: Path) -> Records:
    missing = list(FILES)
    try:
        for name, content in _members(path):
            missing.remove(name)
            yield name, _rows(content, f"{path}: {name}")
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise BenchError(f"{path}: damaged archive ({reason}); remove it and get it again") from error
    if missing:
        raise BenchError(f"{path} has no {FOLDER}/{missing[0]}: it is not CIFAR-10's binary distribution")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each of the six files once, where it stands first; links and whatever else is no plain file are left alone."""
    with gzip.open(path) as unpacked:
        stream = Limited(unpacked, len(FILES) * RECORDS * RECORD + BESIDES, str(path))
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            yield from _wanted(archive, path)
        stream.drain()


def _wanted(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes]]:
    wanted = {f"{FOLDER}/{name}": name for name in FILES}
    for member in islice(archive, MEMBERS):
        name = wanted.pop(member.name, None) if member.isreg() else None
        file = archive.extractfile(member) if name else None
        if name and file:
            _check_size(member.size, f"{path}: {name}")
            yield name, file.read(RECORDS * RECORD)


def _check_size(found: int, name: str) -> None:
    expected = RECORDS * RECORD
    if found != expected:
        raise BenchError(f"{name}: {RECORDS} records of {RECORD} bytes are {expected} bytes, the file has {found}")


def _rows(content: bytes, name: str) -> Tensor:
    """`[records, 1 + pixels]`."""
    _check_size(len(content), name)
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(RECORDS, RECORD)
    wrong = (rows[:, 0] >= CLASSES).nonzero().flatten().tolist()
    if wrong:
        raise BenchError(f"{name}: record {wrong[0]} has label {int(rows[wrong[0], 0])}, CIFAR-10 has labels below {CLASSES}")
    return rows
