"""Batches of image files, decoded ahead by worker processes; what they hold does not depend on how many there are.

A worker makes whole batches from jobs: rows and a seed. The jobs follow from the position alone, and a second copy of the
position runs ahead of the batches that are handed out: what was loaded and not taken is forgotten.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lngd_bench.clock import CPU
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batch, Batches, full_batches
from lngd_bench.tasks.image_transform import DRAWS, View, as_bytes, decoded, evaluation_view, normalised, training_view

Job = tuple[list[int], int]
"""Rows of a batch and the seed of its draws."""


@dataclass(frozen=True)
class Files:
    """Image files and their labels.

    Attributes:
        names: relative to the root, an array of bytes: the reference counts of a million objects would copy their memory
            into every worker.
    """

    root: Path
    names: np.ndarray
    labels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[row]))

    def chosen(self, rows: Tensor | slice) -> "Files":
        return Files(self.root, self.names[rows.numpy() if isinstance(rows, Tensor) else rows], self.labels[rows])


@dataclass(frozen=True)
class Pictures(Dataset[Tensor | BenchError]):
    """What a worker does."""

    files: Files
    size: int
    view: View

    def __getitem__(self, job: Job) -> Tensor | BenchError:
        """Bytes `[n, h, w, 3]`, or the error: one that is raised in a worker arrives wrapped into its traceback."""
        rows, seed = job
        draws = torch.rand(len(rows), DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
        try:
            return torch.stack([self._picture(row, numbers) for row, numbers in zip(rows, draws, strict=True)])
        except BenchError as error:
            return error

    def _picture(self, row: int, draws: Sequence[float]) -> Tensor:
        return as_bytes(self.view(decoded(self.files.path(row)), self.size, draws))


@dataclass(frozen=True)
class Loading:
    """How files become batches: the size of the images, the number of processes and where the batches go."""

    size: int
    workers: int = 0
    device: torch.device = CPU

    def load(self, files: Files, view: View, jobs: Iterable[Job]) -> Iterator[Tensor]:
        """Raises BenchError, which names the file, at the batch that can't be read."""
        loader = DataLoader(
            Pictures(files, self.size, view),
            batch_size=None,
            sampler=jobs,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its draw would otherwise come from the run's random state
        )
        for loaded in loader:
            if isinstance(loaded, BenchError):
                raise loaded
            yield normalised(loaded.to(self.device, non_blocking=True))

    def evaluation(self, files: Files, size: int) -> Iterator[Batch]:
        """All of them, in order."""
        parts = torch.arange(len(files)).split(size)
        images = self.load(files, evaluation_view, [(rows.tolist(), 0) for rows in parts])
        for rows, batch in zip(parts, images, strict=True):
            yield batch, files.labels[rows].to(self.device)

    def training(self, files: Files, size: int, generator: torch.Generator) -> "LoadedBatches":
        return LoadedBatches(self, files, size, generator)


@dataclass(frozen=True)
class _Jobs:
    """Deals out jobs where data in memory deal out batches."""

    labels: Tensor

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        return full_batches(len(self.labels), size, generator)

    def batch(self, rows: Tensor, seed: int) -> Batch:
        return (rows.tolist(), seed), self.labels[rows]


class LoadedBatches:
    """Training batches; the position is that of the last batch taken, however many more are loaded."""

    def __init__(self, loading: Loading, files: Files, size: int, generator: torch.Generator) -> None:
        self.loading, self.files = loading, files
        self.position = Batches(_Jobs(files.labels), size, generator)
        self._images: Iterator[Tensor] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._images is None:
            self._images = self.loading.load(self.files, training_view, self._jobs())
        images = next(self._images)
        _, labels = next(self.position)
        return images, labels.to(self.loading.device, non_blocking=True)

    def close(self) -> None:
        """Ends the workers."""
        self._images = None

    def state_dict(self) -> dict[str, Any]:
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        self.position.load_state_dict(state)

    def _jobs(self) -> Iterator[Job]:
        """From the position on, without end."""
        ahead = Batches(self.position.data, self.position.size, torch.Generator())
        ahead.load_state_dict(self.position.state_dict())
        return (job for job, _ in ahead)
