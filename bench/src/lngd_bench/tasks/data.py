"""What a task trains on: batches without end whose position can be saved, and an evaluation set in chunks.

`Split` holds tensors in memory: a loader process would cost more than a step. Data that are read from files or that have a
length of their own implement the same `Data`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from lngd_bench.clock import CPU
from lngd_bench.errors import BenchError

Batch = tuple[Any, Tensor]
"""What the model takes and what the loss compares its output with."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""A batch of images `[n, c, h, w]` → one of the same shape."""


class Data(Protocol):
    """Training and evaluation samples of a task."""

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> Self: ...

    def first(self, samples: int) -> Self:
        """The first training samples in the data set's fixed order; BenchError where it has fewer."""

    def held_out(self) -> Self:
        """A part of the training samples as evaluation set: tuning never sees what reports evaluate on."""

    def batches(self, size: int, generator: torch.Generator) -> "Batches":
        """Training batches without end; their state is their position."""
        return Batches(self, size, generator)

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """The training rows of each batch of a pass."""

    def batch(self, rows: Tensor, seed: int) -> Batch:
        """`seed` is of the batch's own noise."""

    def chunks(self, size: int) -> Iterator[Batch]:
        """The evaluation set in order."""


@dataclass(frozen=True)
class Split(Data):
    """Samples in memory; the first axis of each tensor counts them.

    Attributes:
        augment: of training batches only.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    augment: Augment | None = None

    @property
    def device(self) -> torch.device:
        return self.train_x.device

    def first(self, samples: int) -> Self:
        """Raises BenchError where the data set has fewer."""
        check_enough(samples, len(self.train_x))
        return replace(self, train_x=self.train_x[:samples], train_y=self.train_y[:samples])

    def held_out(self) -> Self:
        """The last tenth of the training samples evaluates."""
        size = held_out_size(len(self.train_x), len(self.test_x))
        x, y = self.train_x, self.train_y
        return replace(self, train_x=x[:-size], train_y=y[:-size], test_x=x[-size:], test_y=y[-size:])

    def evaluated_on(self, samples: int) -> Self:
        """The first evaluation samples only."""
        return replace(self, test_x=self.test_x[:samples], test_y=self.test_y[:samples])

    def to(self, device: torch.device) -> Self:
        moved = {name: getattr(self, name).to(device) for name in ("train_x", "train_y", "test_x", "test_y")}
        return replace(self, **moved)

    def chunks(self, size: int) -> Iterator[Batch]:
        return zip(self.test_x.split(size), self.test_y.split(size), strict=True)

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        return full_batches(len(self.train_x), size, generator, self.device)

    def batch(self, rows: Tensor, seed: int) -> Batch:
        x = self.train_x[rows]
        return (self.augment(x, torch.Generator().manual_seed(seed)) if self.augment else x), self.train_y[rows]


class Batches:
    """A pass over the data after another, each dealt anew.

    The position is the generator as it was before the pass, how many passes there were and how many batches of this one are
    taken: an epoch of a run need not end where a pass ends. Each batch has a noise of its own, which depends on the
    position only.
    """

    def __init__(self, data: Data, size: int, generator: torch.Generator) -> None:
        self.data, self.size, self.generator = data, size, generator
        self.passes = 0
        self._start_pass()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.taken == len(self.rows):
            self.passes += 1
            self._start_pass()
        rows = self.rows[self.taken]
        seed = batch_seed(self.generator, self.passes, self.taken)
        self.taken += 1
        return self.data.batch(rows, seed)

    def state_dict(self) -> dict[str, Any]:
        return {"before_pass": self.before_pass, "passes": self.passes, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["before_pass"])
        self._start_pass()
        self.passes, self.taken = state["passes"], state["taken"]

    def close(self) -> None:
        """Ends what loads ahead, if anything does; the next batch, the same as without, begins it anew."""

    def _start_pass(self) -> None:
        self.before_pass = self.generator.get_state()
        self.rows = self.data.deal(self.size, self.generator)
        self.taken = 0


def batch_seed(generator: torch.Generator, passes: int, taken: int) -> int:
    """Of the noise of one batch: another one for each seed, pass and place.

    Hashed, since torch's generator on the CPU looks at the lowest 32 bits of a seed only.
    """
    place = f"{generator.initial_seed()} {passes} {taken}".encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=7).digest())


def full_batches(samples: int, size: int, generator: torch.Generator, device: torch.device = CPU) -> Sequence[Tensor]:
    """One permutation of the rows, the incomplete batch at its end left out."""
    full = max(1, samples // size)
    return torch.randperm(samples, generator=generator).to(device)[: full * size].split(size)


def held_out_size(train: int, test: int) -> int:
    """A tenth of the training samples, at most as many as evaluate otherwise."""
    return min(max(1, train // 10), test)


def in_memory(data: Data) -> Split:
    """For what needs all samples at once; raises BenchError where the task streams them."""
    if not isinstance(data, Split):
        raise BenchError("this needs a task whose samples are in memory; this one streams them")
    return data


def check_enough(samples: int, there: int) -> None:
    """Raises BenchError where a task asks for more training samples than there are."""
    if samples > there:
        raise BenchError(f"the task asks for {samples} training samples, the data set has {there}")


def standardised(images: Tensor, reference: Tensor) -> Tensor:
    """Zero mean and unit variance over all pixels of the reference, which is the training set."""
    return (images - reference.mean()) / reference.std()
