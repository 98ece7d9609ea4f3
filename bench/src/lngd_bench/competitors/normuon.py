"""NorMuon, and two other changes of Muon's step; each takes Muon's matrices and leaves the rest to AdamW."""

from typing import Any

import torch
from torch import Tensor

from lngd_bench.competitors.muon import Float32Muon

ROW_DECAY = 0.95
"""β₂ of the rows' second moments, the authors'."""
TINY = 1e-8
CAUTIOUS_DECAY = 0.1
"""Where the setting has no weight decay: torch's default for Muon. Without any, cautious decay is Muon itself."""


class NorMuon(Float32Muon):
    """NorMuon (Li et al. 2025, arXiv 2510.05491, Algorithm 1): every row of the orthogonalised update about as long as any other.

    v ← β₂v + (1−β₂) · mean of O² over each row, Ô = O / (√v + ε), W ← W − lr · 0.2 √(o·i) · Ô / ‖Ô‖. A row is a neuron. That v
    starts at zero is a common factor, which the norm takes out again.
    """

    def _direction(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        direction = super()._direction(weight, gradient, group)
        moments = self.state[weight].setdefault("row_moments", torch.zeros_like(weight[:, :1]))
        return at_length(rows_alike(direction, moments), min(weight.shape) ** 0.5)


class CautiousMuon(Float32Muon):
    """Muon with cautious weight decay (arXiv 2510.12402): W ← W − lr (O + λ · 1[O ⊙ W ≥ 0] ⊙ W).

    What the step makes smaller anyway decays, what it makes larger does not. AdamW's part has the setting's plain decay.
    """

    def _decay(self, weight: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"] or CAUTIOUS_DECAY
        weight.sub_(weight * (direction * weight >= 0), alpha=group["lr"] * decay)


class HyperballMuon(Float32Muon):
    """Muon on a sphere: after each step a matrix has the Frobenius norm that it began with.

    The projection of Hyperball optimization (Fantastic Pretraining Optimizers and Where to Find Them 2.1, 2025), after Muon's own
    step length instead of a share of the norm. A matrix that began at zero is free.
    """

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        radius = self.state[weight].setdefault("radius", weight.norm())
        super()._move(weight, gradient, group)
        weight.mul_(torch.where(radius > 0, radius / weight.norm(), 1.0))


def rows_alike(direction: Tensor, moments: Tensor) -> Tensor:
    """Each row over the root of its second moment, `[o, 1]`, which is kept."""
    moments.lerp_(direction.square().mean(1, keepdim=True), 1 - ROW_DECAY)
    return direction / (moments.sqrt() + TINY)


def at_length(direction: Tensor, length: float) -> Tensor:
    """With that Frobenius norm; zero stays zero."""
    return direction * (length / direction.norm().clamp(min=torch.finfo(direction.dtype).tiny))
