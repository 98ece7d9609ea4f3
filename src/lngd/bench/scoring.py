"""The loss every task trains on and the two figures every task is judged by."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lngd.bench.data import Data

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
    """The model in evaluation mode on the whole evaluation set; the mode it had is restored."""
    training = model.training
    model.eval()
    sums = torch.stack([_sums(model(x), y) for x, y in data.chunks(EVALUATION_CHUNK)]).sum(0)
    model.train(training)
    loss, right, predictions = sums.tolist()
    return Score(loss / predictions, right / predictions)


def _sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """Summed loss, right predictions and all predictions, in float64 so that 25 million addends lose nothing."""
    flat, labels = outputs.flatten(0, -2), targets.flatten()
    loss = functional.cross_entropy(flat, labels, reduction="sum")
    right = (flat.argmax(-1) == labels).sum()
    return torch.stack([loss.double(), right.double(), torch.full_like(right, len(labels)).double()])
