"""The MNIST family: four idx files, found where a package or the user put them, never downloaded unasked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lngd.bench.data import Split, standardised
from lngd.bench.datasets.download import Download, Progress, silent
from lngd.bench.datasets.idx import read_idx
from lngd.bench.datasets.places import cached, first_that, listed, places
from lngd.bench.errors import BenchError

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
        return first_that(lambda path: all(_file(path, name).exists() for name in self.hashes), self._places(data_dir))


def _file(directory: Path, name: str) -> Path:
    packed = directory / f"{name}.gz"
    return packed if packed.exists() else directory / name


def _part(directory: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(_file(directory, f"{part}-images-idx3-ubyte"), 3).unsqueeze(1)
    return images, read_idx(_file(directory, f"{part}-labels-idx1-ubyte"), 1).long()
