"""Data sets as tensors in memory and an iterator over them: a loader process would cost more than a step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

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


class Batches(Iterator[tuple[Tensor, Tensor]]):
    """Batches without end: one permutation a pass over the data, the incomplete batch at its end left out.

    The position is the generator as it was before the pass, and how many batches of the pass are taken: an epoch of a run
    need not end where a pass ends.
    """

    def __init__(self, split: Split, size: int, generator: torch.Generator) -> None:
        self.split, self.size, self.generator = split, size, generator
        self.full = max(1, len(split.train_x) // size)
        self._start_pass()

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.taken == self.full:
            self._start_pass()
        rows = self.order[self.taken * self.size : (self.taken + 1) * self.size]
        self.taken += 1
        return self.split.train_x[rows], self.split.train_y[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"before_pass": self.before_pass, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["before_pass"])
        self._start_pass()
        self.taken = state["taken"]

    def _start_pass(self) -> None:
        self.before_pass = self.generator.get_state()
        self.order = torch.randperm(len(self.split.train_x), generator=self.generator).to(self.split.train_x.device)
        self.taken = 0


def chunks(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The evaluation set in order."""
    return zip(split.test_x.split(size), split.test_y.split(size), strict=True)


def standardised(images: Tensor, reference: Tensor) -> Tensor:
    """Zero mean and unit variance over all pixels of the reference, which is the training set."""
    return (images - reference.mean()) / reference.std()
