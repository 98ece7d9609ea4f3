"""Pictures in class folders, ImageNet's layout: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, decoded as they are needed."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lngd.bench.data import Batch, Batches, batch_noise, check_enough
from lngd.bench.errors import BenchError
from lngd.bench.image_transform import Transform

SUFFIXES = {".jpeg", ".jpg", ".png"}
ORDER_SEED = 0  # of the one order in which everybody takes the first n samples
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, by colour, of values in [0, 1]
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises over content that is no picture, or a broken one, or one made to fill the memory."""

Sample = tuple[Path, int]
Wanted = tuple[int, int | None]
"""A sample's place, and the seed of its crop; None for the middle."""


class Unreadable(str):
    """A message in the place of a picture: an exception would come out of a worker process wrapped in its traceback."""


@dataclass(frozen=True)
class Decoded(Dataset[tuple[Tensor, int] | Unreadable]):
    """Samples by what is wanted of them."""

    samples: Sequence[Sample]
    transform: Transform

    def __getitem__(self, wanted: Wanted) -> tuple[Tensor, int] | Unreadable:
        place, seed = wanted
        path, label = self.samples[place]
        try:
            picture = opened(path)
        except UNREADABLE as error:
            return Unreadable(f"{path}: not a readable picture ({error})")
        return self.transform.evaluation(picture) if seed is None else self.transform.training(picture, seed), label


def opened(path: Path) -> Image.Image:
    """Decoded whole, in three colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            return picture.convert("RGB")


@dataclass(frozen=True)
class ImageFolder:
    """A `Data` of files.

    Attributes:
        workers: processes that decode; batches are the same for any number.
    """

    train: Sequence[Sample]
    test: Sequence[Sample]
    transform: Transform
    workers: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a device is immutable

    def to(self, device: torch.device) -> Self:
        """Batches go there."""
        return replace(self, device=device)

    def first(self, samples: int) -> Self:
        check_enough(samples, len(self.train))
        return replace(self, train=self.train[:samples])

    def held_out(self) -> Self:
        """The last tenth of the training samples evaluates, at most as many as evaluate otherwise."""
        size = min(max(1, len(self.train) // 10), len(self.test))
        return replace(self, train=self.train[:-size], test=self.train[-size:])

    def batches(self, size: int, generator: torch.Generator) -> "LoadedBatches":
        return LoadedBatches(self, size, generator)

    def chunks(self, size: int) -> Iterator[Batch]:
        places: list[Wanted] = [(place, None) for place in range(len(self.test))]
        return self.loaded(self.test, [places[start : start + size] for start in range(0, len(places), size)])

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        full = max(1, len(self.train) // size)
        return torch.randperm(len(self.train), generator=generator)[: full * size].split(size)

    def batch(self, rows: Tensor, noise: torch.Generator) -> Batch:
        return next(self.loaded(self.train, [wanted(rows, noise)]))

    def loaded(self, samples: Sequence[Sample], plan: list[list[Wanted]]) -> Iterator[Batch]:
        """The planned batches, decoded ahead of their use by the workers.

        Raises:
            BenchError: a file is no readable picture.
        """
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            Decoded(samples, self.transform),
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=_collated,
            pin_memory=on_gpu,
        )
        for found in loader:
            if isinstance(found, Unreadable):
                raise BenchError(found)
            images, labels = (tensor.to(self.device, non_blocking=on_gpu) for tensor in found)
            yield _normalised(images), labels


class LoadedBatches(Batches):
    """Batches whose pass is read ahead from where it stands: going on from a saved position decodes nothing twice."""

    data: ImageFolder
    ahead: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        if self.taken == len(self.rows):
            self.passes += 1
            self._start_pass()
        if self.ahead is None:
            noises = (batch_noise(self.generator, self.passes, place) for place in range(self.taken, len(self.rows)))
            rest = zip(self.rows[self.taken :], noises, strict=True)
            self.ahead = self.data.loaded(self.data.train, [wanted(rows, noise) for rows, noise in rest])
        self.taken += 1
        return next(self.ahead)

    def _start_pass(self) -> None:
        super()._start_pass()
        self.ahead = None


def wanted(rows: Tensor, noise: torch.Generator) -> list[Wanted]:
    seeds = torch.randint(2**31, (len(rows),), generator=noise).tolist()
    return list(zip(rows.tolist(), seeds, strict=True))


def read_folder(directory: Path, size: int, workers: int = 0) -> ImageFolder:
    """Training samples in a fixed random order, so that the first n hold all classes; evaluation samples sorted.

    Raises:
        BenchError: a part is missing, holds no pictures, or has other classes than the other part.
    """
    train, test = (_samples(directory / part) for part in ("train", "val"))
    ours, theirs = ({path.parent.name for path, _ in part} for part in (train, test))
    if ours != theirs:
        only = sorted(ours ^ theirs)
        raise BenchError(f"{directory}: train and val must have the same classes; {', '.join(only[:5])} is in one of them only")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(ORDER_SEED)).tolist()
    return ImageFolder([train[place] for place in order], test, Transform(size), workers)


def is_folder(directory: Path) -> bool:
    return (directory / "train").is_dir() and (directory / "val").is_dir()


def _samples(directory: Path) -> list[Sample]:
    if not directory.is_dir():
        raise BenchError(f"{directory} is missing: pictures lie in train/CLASS/ and val/CLASS/")
    classes = sorted(path for path in directory.iterdir() if path.is_dir())
    files = [(path, label) for label, folder in enumerate(classes) for path in sorted(folder.iterdir())]
    pictures = [(path, label) for path, label in files if path.suffix.lower() in SUFFIXES]
    empty = [folder.name for label, folder in enumerate(classes) if not any(own == label for _, own in pictures)]
    if not pictures or empty:
        named = f"classes {', '.join(empty[:5])}" if empty else "it"
        raise BenchError(f"{directory}: {named} hold{'' if empty else 's'} no picture ({', '.join(sorted(SUFFIXES))})")
    return pictures


def _collated(items: list[tuple[Tensor, int] | Unreadable]) -> tuple[Tensor, Tensor] | Unreadable:
    unreadable = next((item for item in items if isinstance(item, Unreadable)), None)
    if unreadable is not None:
        return unreadable
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels)


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std
