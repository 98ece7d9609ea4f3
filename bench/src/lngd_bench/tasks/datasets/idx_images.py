"""The MNIST family: four idx files, found where a package or the user put them, never downloaded unasked.

All members name their files alike, so a name does not tell whose it is: a directory with another member's files is passed over.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split, standardised
from lngd_bench.tasks.datasets.download import Download, Progress, silent
from lngd_bench.tasks.datasets.idx import idx_of, read_idx
from lngd_bench.tasks.datasets.places import cached, first_that, listed, places

CLASSES = 10
SIDE = 28  # pixels
WHOLE = 60_000  # training samples of every member
TRAIN_LABELS = "train-labels-idx1-ubyte"
LARGEST = 64 * 2**20  # bytes of a file, packed or not, that a server can make us take; the largest is 47 million


@dataclass(frozen=True, kw_only=True)
class IdxImages:
    """One member.

    Attributes:
        folder: its name in a directory of data sets.
        hashes: SHA-256 of the decompressed files by name: distributors compress them anew, the content is the same.
        system: where packages put it.
        install: the commands that get it.
    """

    title: str
    folder: str
    url: str
    hashes: Mapping[str, str]
    install: str
    system: tuple[Path, ...] = ()
    package: str = ""

    def load(self, data_dir: Path | None = None) -> Split:
        """All training and evaluation images `[n, 1, 28, 28]`, standardised, in the order of the files.

        Raises:
            BenchError: no directory holds the four files, or one of them is damaged.
        """
        (train_x, train_y), (test_x, test_y) = self.pixels(data_dir)
        train_x, test_x = train_x.float(), test_x.float()
        return Split(standardised(train_x, train_x), train_y, standardised(test_x, train_x), test_y)

    def pixels(self, data_dir: Path | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Images as bytes `[n, 1, 28, 28]` and labels of both parts; raises BenchError as `load` does."""
        found = self._directory(data_dir)
        if found is None:
            raise BenchError(f"{self.title} is in none of {listed(self._places(data_dir))}. Get it with: {self.install}")
        return _part(found, "train"), _part(found, "t10k")

    def place(self, data_dir: Path | None = None) -> str | None:
        """The directory it would be read from."""
        found = self._directory(data_dir)
        return str(found) if found else None

    def fetch(self, url: str | None = None, into: Path | None = None, progress: Progress = silent) -> Iterator[Path]:
        """Download the four files, each checked before it takes its name; yields a file when it is in place.

        Raises:
            BenchError: the address can't be read, or what it holds is something else.
        """
        source, target = (url or self.url).rstrip("/"), into or cached(self.folder)
        for name, digest in self.hashes.items():
            file = Download(f"{source}/{name}.gz", digest, LARGEST, packed=True, hint=self.package)
            yield file.into(target / f"{name}.gz", progress)

    def _places(self, data_dir: Path | None) -> list[Path]:
        return places(self.folder, data_dir, *self.system)

    def _directory(self, data_dir: Path | None) -> Path | None:
        return first_that(self._is_in, self._places(data_dir))

    def _is_in(self, directory: Path) -> bool:
        """A damaged file counts as its own: the loader says what is wrong with it."""
        if not all(_file(directory, name).exists() for name in self.hashes):
            return False
        try:
            labels = read_idx(_file(directory, TRAIN_LABELS), 1)
        except BenchError:
            return True
        return len(labels) != WHOLE or hashlib.sha256(idx_of(labels)).hexdigest() == self.hashes[TRAIN_LABELS]


def _file(directory: Path, name: str) -> Path:
    packed = directory / f"{name}.gz"
    return packed if packed.exists() else directory / name


def _part(directory: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _images(_file(directory, f"{part}-images-idx3-ubyte"))
    return images.unsqueeze(1), _labels(_file(directory, f"{part}-labels-idx1-ubyte"), len(images))


def _images(path: Path) -> Tensor:
    images = read_idx(path, 3)
    if not len(images) or images.shape[1:] != (SIDE, SIDE):
        raise BenchError(f"{path}: the images are {tuple(images.shape)}, not some of {SIDE}×{SIDE} pixels")
    if images.min() == images.max():
        raise BenchError(f"{path}: every pixel has the value {int(images.max())}")
    return images


def _labels(path: Path, images: int) -> Tensor:
    labels = read_idx(path, 1)
    if len(labels) != images:
        raise BenchError(f"{path}: {len(labels)} labels for {images} images")
    wrong = (labels >= CLASSES).nonzero().flatten().tolist()
    if wrong:
        raise BenchError(f"{path}: record {wrong[0]} has label {int(labels[wrong[0]])}, the labels go from 0 to {CLASSES - 1}")
    return labels.long()
