"""CIFAR-10 in its binary distribution: six files of records, a label byte and the red, green and blue planes of 32×32 pixels.

Found as the archive, which nobody unpacks, or as its folder. The other distribution of the same images is made of pickles,
which can run code, and is not read.
"""

import math
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.places import DataSet

ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
RECORDS = 10_000  # of each file
PIXELS = (3, 32, 32)
CHUNK = 1000  # images whose squares are in memory at once


def _form(place: Path) -> Path | None:
    """The directory with the six files, or the archive, where the place is either or holds either."""
    whole = (path for path in (place, place / FOLDER) if all((path / name).is_file() for name in FILES))
    archive = place / ARCHIVE
    return next(whole, archive if archive.is_file() else None)


CIFAR10 = DataSet(
    name="cifar-10",
    title="50,000 + 10,000 images 32×32",
    license="none stated",
    command="lngd data fetch cifar-10",
    is_in=lambda place: _form(place) is not None,
    url="https://www.cs.toronto.edu/~kriz/",
    hashes={ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)


def load_cifar10_split(data_dir: Path | None = None) -> Split:
    """50,000 training and 10,000 evaluation images `[n, 3, 32, 32]` in the order of the files.

    Each colour has zero mean and unit variance over the training set.

    Raises:
        BenchError: it is nowhere, or damaged.
    """
    found = _form(CIFAR10.found(data_dir))
    assert found
    x, y = torch.empty(len(FILES) * RECORDS, *PIXELS), torch.empty(len(FILES) * RECORDS, dtype=torch.int64)
    missing = set(FILES)
    try:
        for name, content in _contents(found):  # floats in their final place: a second copy would take 600 MB
            rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(RECORDS, 1 + math.prod(PIXELS))
            part = slice(FILES.index(name) * RECORDS, (FILES.index(name) + 1) * RECORDS)
            x[part], y[part] = rows[:, 1:].unflatten(1, PIXELS), rows[:, 0]
            missing.discard(name)
    except (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise BenchError(f"{found}: damaged ({error}); remove it and get it again with: {CIFAR10.command}") from error
    if missing:
        raise BenchError(f"{found} lacks {', '.join(sorted(missing))}: it is not CIFAR-10's binary distribution")
    training = x[:-RECORDS]
    x.sub_(training.mean((0, 2, 3), keepdim=True))  # `torch.std` needs five times as long, and squares of all at once 600 MB
    squares = torch.stack([part.square().sum((0, 2, 3)) for part in training.split(CHUNK)]).double().sum(0)
    x.div_((squares / (training[:, 0].numel() - 1)).sqrt().float().view(-1, 1, 1))
    return Split(training, y[:-RECORDS], x[-RECORDS:], y[-RECORDS:])


def _contents(found: Path) -> Iterator[tuple[str, bytes]]:
    """Of the archive in its own order, in one pass."""
    if found.is_dir():
        yield from ((name, (found / name).read_bytes()) for name in FILES)
        return
    with tarfile.open(found) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name in {f"{FOLDER}/{name}" for name in FILES} else None
            if file:
                yield Path(member.name).name, file.read()
