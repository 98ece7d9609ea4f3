"""CIFAR-10 in its binary distribution: records of a label byte and 3,072 pixel bytes, the red, green and blue planes of 32×32.

The archive is read as it is; its members are looked up by name and nothing of it is unpacked to the disk. The other
distribution of the same images is made of pickles, which can run code, and is not read.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lngd.bench.data import Split
from lngd.bench.datasets.download import Download, Progress, silent
from lngd.bench.datasets.places import cached, first_that, listed, places
from lngd.bench.errors import BenchError

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
LARGEST = 170_052_171  # bytes of the archive
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
RECORDS = 10_000  # of each file
CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
INSTALL = "lngd data fetch cifar-10"


def load_cifar10_split(data_dir: Path | None = None) -> Split:
    """50,000 training and 10,000 evaluation images `[n, 3, 32, 32]` in the order of the files.

    Each colour has zero mean and unit variance over the training set.

    Raises:
        BenchError: it is nowhere, or a file is missing, damaged, or of another size.
    """
    found = _found(data_dir)
    if found is None:
        raise BenchError(f"CIFAR-10 ({FOLDER}/ or {ARCHIVE}) is in none of {listed(_places(data_dir))}. Get it with: {INSTALL}")
    read = _from_archive(found) if found.is_file() else _from_directory(found)
    train, test = (torch.cat([_records(content, name) for content, name in map(read, part)]) for part in (TRAIN, TEST))
    train_x, test_x = _pixels(train), _pixels(test)
    mean, std = (getattr(train_x, figure)((0, 2, 3), keepdim=True) for figure in ("mean", "std"))
    train_x, test_x = train_x.sub_(mean).div_(std), test_x.sub_(mean).div_(std)
    return Split(train_x, train[:, 0].long(), test_x, test[:, 0].long())


def place(data_dir: Path | None = None) -> str | None:
    """The directory or archive it would be read from."""
    found = _found(data_dir)
    return str(found) if found else None


def fetch(url: str | None = None, into: Path | None = None, progress: Progress = silent) -> Iterator[Path]:
    """Download the archive, checked before it takes its name.

    Raises:
        BenchError: the address can't be read, or what it holds is something else.
    """
    yield Download(url or URL, SHA256, LARGEST).into((into or cached("cifar-10")) / ARCHIVE, progress)


Reader = Callable[[str], tuple[bytes, str]]
"""A file's name → its first bytes, one more than there should be at most, and what an error calls it."""


def _from_directory(directory: Path) -> Reader:
    def read(name: str) -> tuple[bytes, str]:
        path = directory / name
        try:
            with path.open("rb") as file:
                return file.read(RECORDS * RECORD + 1), str(path)
        except FileNotFoundError as error:
            raise BenchError(f"{path} is missing: CIFAR-10 has {len(TRAIN) + len(TEST)} files. Get it with: {INSTALL}") from error

    return read


def _from_archive(path: Path) -> Reader:
    contents = _members(path)

    def read(name: str) -> tuple[bytes, str]:
        if name not in contents:
            raise BenchError(f"{path} has no {FOLDER}/{name}: it is not CIFAR-10's binary distribution. Get it with: {INSTALL}")
        return contents[name], f"{path}: {name}"

    return read


def _members(path: Path) -> dict[str, bytes]:
    """The files of the archive that are of the data set."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            return dict(_wanted(archive))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BenchError(f"{path}: damaged archive ({error}). Get it again with: {INSTALL}") from error


def _wanted(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """In one pass over it; links and whatever else is no plain file are left alone."""
    wanted = {f"{FOLDER}/{name}": name for name in (*TRAIN, *TEST)}
    for member in archive:
        file = archive.extractfile(member) if member.name in wanted and member.isfile() else None
        if file:
            yield wanted[member.name], file.read(RECORDS * RECORD + 1)


def _records(content: bytes, name: str) -> Tensor:
    """Rows of a label and 3,072 pixels."""
    if len(content) != RECORDS * RECORD:
        found = "more" if len(content) > RECORDS * RECORD else str(len(content))
        raise BenchError(f"{name}: {RECORDS} records of {RECORD} bytes are {RECORDS * RECORD} bytes, the file has {found}")
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(RECORDS, RECORD)
    wrong = (rows[:, 0] >= CLASSES).nonzero().flatten().tolist()
    if wrong:
        raise BenchError(f"{name}: record {wrong[0]} has label {int(rows[wrong[0], 0])}, CIFAR-10 has labels below {CLASSES}")
    return rows


def _pixels(rows: Tensor) -> Tensor:
    return rows[:, 1:].float().view(-1, *SHAPE)


def _places(data_dir: Path | None) -> list[Path]:
    """Directories that may be the data set, may hold its folder, or its archive."""
    return [*places(FOLDER, data_dir), *places("cifar-10", data_dir)]


def _found(data_dir: Path | None) -> Path | None:
    candidates = [path / inner for path in _places(data_dir) for inner in (".", FOLDER, ARCHIVE)]
    return first_that(lambda path: path.is_file() if path.name == ARCHIVE else (path / TRAIN[0]).is_file(), candidates)
