"""The loss every task trains on and the two figures every task is judged by."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lngd_bench.tasks.data import Batch, Data

EVALUATION_CHUNK = 256  # samples a forward: an evaluation must not need more memory than training


@dataclass(frozen=True)
class Score:
    """Loss and accuracy are means over all predictions of the evaluation set; BLEU is a translation's only."""

    loss: float
    accuracy: float
    bleu: float | None = None


def mean_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples, and over positions where a sample has several."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> Score:
    """On the whole evaluation set."""
    with evaluating(model):
        return Score(*means(model, data.chunks(EVALUATION_CHUNK), totals))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; the mode it had is restored."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def means(model: nn.Module, chunks: Iterable[Batch], of: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Loss and accuracy, from what `of` gives as `totals` does."""
    loss, right, predictions = torch.stack([of(model(x), y) for x, y in chunks]).sum(0).tolist()
    return loss / predictions, right / predictions


def totals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Summed loss, right predictions and all predictions, in float64 so that 25 million addends lose nothing."""
    flat, labels = outputs.flatten(0, -2), targets.flatten()
    loss = functional.cross_entropy(flat, labels, reduction="sum")
    right = (flat.argmax(-1) == labels).sum()
    return torch.stack([loss.double(), right.double(), torch.full_like(right, len(labels)).double()])
