"""A folder for each class, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`: how ImageNet is kept, and any images can be."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batch, check_enough, held_out_size
from lngd_bench.tasks.image_loading import Files, LoadedBatches, Loading

TRAIN, EVALUATION = "train", "val"
SUFFIXES = (".jpeg", ".jpg", ".png")  # in either case
LAYOUT = "expected are train/<class>/*.JPEG and val/<class>/*.JPEG (.jpg and .png too), the same classes in both"
ORDER_SEED = 0  # of the one order whose first samples are a task's


@dataclass(frozen=True)
class ImageFolder:
    """`Data` from files: the training files in an order that mixes the classes."""

    train: Files
    evaluated: Files
    classes: tuple[str, ...]
    loading: Loading

    @property
    def device(self) -> torch.device:
        return self.loading.device

    def to(self, device: torch.device) -> Self:
        return replace(self, loading=replace(self.loading, device=device))

    def first(self, samples: int) -> Self:
        """Raises BenchError where the folder has fewer."""
        check_enough(samples, len(self.train))
        return replace(self, train=self.train.chosen(slice(samples)))

    def held_out(self) -> Self:
        """The last tenth of the training samples evaluates, seen as evaluation samples are."""
        kept = len(self.train) - held_out_size(len(self.train), len(self.evaluated))
        return replace(self, train=self.train.chosen(slice(kept)), evaluated=self.train.chosen(slice(kept, None)))

    def batches(self, size: int, generator: torch.Generator) -> LoadedBatches:
        return self.loading.training(self.train, size, generator)

    def chunks(self, size: int) -> Iterator[Batch]:
        return self.loading.evaluation(self.evaluated, size)


def open_image_folder(root: Path, loading: Loading) -> ImageFolder:
    """Lists the files and reads none of them.

    Raises:
        BenchError: the layout is another one.
    """
    classes = {part: _classes(root / part) for part in (TRAIN, EVALUATION)}
    for part, other in ((TRAIN, EVALUATION), (EVALUATION, TRAIN)):
        if missing := sorted(set(classes[other]) - set(classes[part])):
            raise BenchError(f"{root / part} lacks the class {missing[0]}, which {root / other} has; {LAYOUT}")
    train, evaluated = (_files(root / part, classes[part]) for part in (TRAIN, EVALUATION))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(ORDER_SEED))
    return ImageFolder(train.chosen(order), evaluated, tuple(classes[TRAIN]), loading)


def is_image_folder(root: Path) -> bool:
    return (root / TRAIN).is_dir() and (root / EVALUATION).is_dir()


def _classes(part: Path) -> list[str]:
    names = [entry.name for entry in _entries(part) if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise BenchError(f"{part} holds no class folders; {LAYOUT}")
    return sorted(names)


def _files(part: Path, classes: list[str]) -> Files:
    by_class = [_images(part / name) for name in classes]
    names = [os.fsencode(f"{name}/{file}") for name, files in zip(classes, by_class, strict=True) for file in files]
    counts = torch.tensor([len(files) for files in by_class])
    return Files(part, np.array(names), torch.arange(len(classes)).repeat_interleave(counts))


def _images(folder: Path) -> list[str]:
    names = [entry.name for entry in _entries(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    if not names:
        raise BenchError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return sorted(names)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BenchError(f"{folder}: {error.strerror}; {LAYOUT}") from error
