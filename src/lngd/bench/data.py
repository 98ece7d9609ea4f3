"""Data sets as tensors in memory and an iterator over them: a loader process would cost more than a step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lngd.bench.errors import BenchError


@dataclass(frozen=True)
class Split:
    """Training and evaluation samples; the first axis of each tensor counts samples."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def first(self, samples: int) -> "Split":
        """The first training samples in the data set's fixed order.

        Raises:
            BenchError: the data set has fewer.
        """
        if samples > len(self.train_x):
            raise BenchError(f"the task asks for {samples} training samples, the data set has {len(self.train_x)}")
        return replace(self, train_x=self.train_x[:samples], train_y=self.train_y[:samples])

    def held_out(self) -> "Split":
        """The last tenth of the training samples as evaluation set: tuning never sees what reports evaluate on."""
        size = min(max(1, len(self.train_x) // 10), len(self.test_x))
        return Split(self.train_x[:-size], self.train_y[:-size], self.train_x[-size:], self.train_y[-size:])

    def to(self, device: torch.device) -> "Split":
        return Split(*(tensor.to(device) for tensor in (self.train_x, self.train_y, self.test_x, self.test_y)))


def batches(split: Split, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: one permutation a pass over the data, the incomplete batch at its end left out."""
    while True:
        order = torch.randperm(len(split.train_x), generator=generator).to(split.train_x.device)
        full = max(1, len(order) // size)
        for rows in order.split(size)[:full]:
            yield split.train_x[rows], split.train_y[rows]


def chunks(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The evaluation set in order."""
    return zip(split.test_x.split(size), split.test_y.split(size), strict=True)


def standardised(images: Tensor, reference: Tensor) -> Tensor:
    """Zero mean and unit variance over all pixels of the reference, which is the training set."""
    return (images - reference.mean()) / reference.std()
