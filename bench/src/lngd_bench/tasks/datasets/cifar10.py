"""CIFAR-10 in its binary distribution: found where the user or `lngd data fetch` put it, read into one tensor, standardised.

The other distribution of the same images is made of pickles, which can run code, and is not read.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets import cifar10_files
from lngd_bench.tasks.datasets.cifar10_files import FILES, FOLDER, PIXELS, TRAIN
from lngd_bench.tasks.datasets.download import Download, Progress, silent
from lngd_bench.tasks.datasets.places import cached, first_that, listed, places

ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
LARGEST = 170_052_171  # bytes of the archive
LEAST_DEVIATION = 1.0  # of 255; the photographs have 60 in each colour
CHUNK = 1000  # images whose squares are in memory at once
INSTALL = "lngd data fetch cifar-10"


def load_cifar10_split(data_dir: Path | None = None) -> Split:
    """50,000 training and 10,000 evaluation images `[n, 3, 32, 32]` in the order of the files.

    Each colour has zero mean and unit variance over the training set.

    Raises:
        BenchError: it is nowhere, or a file is missing, damaged, or of another size.
    """
    found = _found(data_dir)
    if found is None:
        raise BenchError(f"{_missing(data_dir)}. Get it with: {INSTALL}")
    x, y = _read(found)
    training = cifar10_files.RECORDS * len(TRAIN)
    _standardise(x, x[:training], found)
    return Split(x[:training], y[:training], x[training:], y[training:])


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


def _read(found: Path) -> tuple[Tensor, Tensor]:
    """All images and labels. A file's pixels become floats in their final place: a second copy would take 600 MB."""
    records = cifar10_files.RECORDS
    x = torch.empty(len(FILES) * records, *PIXELS)
    y = torch.empty(len(FILES) * records, dtype=torch.int64)
    for name, rows in cifar10_files.read(found):
        start = FILES.index(name) * records
        y[start : start + records] = rows[:, 0]
        x[start : start + records] = rows[:, 1:].unflatten(1, PIXELS)
    return x, y


def _standardise(x: Tensor, training: Tensor, found: Path) -> None:
    """In place, by colour. `torch.std` needs five times as long, and squares of all images at once 600 MB."""
    x.sub_(training.mean((0, 2, 3), keepdim=True))
    squares = torch.stack([part.square().sum((0, 2, 3)) for part in training.split(CHUNK)]).double().sum(0)
    std = (squares / (training[:, 0].numel() - 1)).sqrt()
    if (std < LEAST_DEVIATION).any():
        raise BenchError(f"{found}: one of the three colours is the same in all pixels, so this is not CIFAR-10")
    x.div_(std.float().view(-1, 1, 1))


def _places(data_dir: Path | None) -> list[Path]:
    """Directories that may be the data set, may hold its folder, or its archive."""
    return list(dict.fromkeys([*places(FOLDER, data_dir), *places("cifar-10", data_dir), cached("")]))


def _found(data_dir: Path | None) -> Path | None:
    candidates = [path / inner for path in _places(data_dir) for inner in (".", FOLDER, ARCHIVE)]
    return first_that(lambda path: path.is_file() if path.name == ARCHIVE else not _lacking(path), candidates)


def _lacking(directory: Path) -> list[Path]:
    return [directory / name for name in FILES if not (directory / name).is_file()]


def _missing(data_dir: Path | None) -> str:
    """A directory with some of the files is not read, but named."""
    directories = [path / inner for path in _places(data_dir) for inner in (".", FOLDER)]
    begun = first_that(lambda path: len(_lacking(path)) < len(FILES), directories)
    if begun:
        return f"{_lacking(begun)[0]} is missing: CIFAR-10 has {len(FILES)} files"
    return f"CIFAR-10 ({FOLDER}/ or {ARCHIVE}) is in none of {listed(_places(data_dir))}"
