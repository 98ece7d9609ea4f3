"""What a small task is, and the few things that several of them share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor, nn

from lngd.methods import FisherChoice
from lngd.sampling import Sampled
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.small_images import load_digits_split
from lngd_bench.tasks.task import MeanOver

GAUSSIAN = Sampled("gaussian")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        model: at the global seed.
        loss: of a batch that the generator draws.
        held_out: of a model in evaluation mode, smaller is better.
        measure: what `held_out` is.
        fisher: K-FAC's; "empirical" where the output is no prediction of one likelihood.
    """

    title: str
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Generator], Tensor]
    held_out: Callable[[nn.Module], float]
    measure: str
    steps: int
    fisher: FisherChoice = "sampled"
    mean_over: MeanOver = "batch"


@cache
def digits() -> Split:
    """scikit-learn's digits, `[n, 1, 8, 8]`, standardised by the training images."""
    return load_digits_split()


def drawn(data: Split, size: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Training samples."""
    rows = torch.randint(len(data.train_x), (size,), generator=draw)
    return data.train_x[rows], data.train_y[rows]


def half_square(error: Tensor) -> Tensor:
    """−log p of a unit normal but for a constant: summed over the last dimension, the mean over all others."""
    return 0.5 * error.square().sum(-1).mean()


def root_mean_square(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def relative_error(found: Tensor, right: Tensor) -> float:
    """‖found − right‖ / ‖right‖, all samples together."""
    return ((found - right).norm() / right.norm()).item()
