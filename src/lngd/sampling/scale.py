"""At what scale per-sample gradients enter a Fisher matrix.

Convention: a sample's negative log-likelihood is what the loss is the mean of, so per-sample gradients average to the loss's.
Every factor between what the graph holds and such a gradient (mean over the batch, over tokens, a sum) is in `fisher_weight`.
"""

from functools import lru_cache
from typing import Literal

from torch import Tensor

from lngd.sampling.fisher_type import FisherType

MeanOver = Literal["batch", "token", "none"]
"""What the loss averages over; "none": it is a sum over samples."""


@lru_cache
def fisher_weight(fisher: FisherType, mean_over: MeanOver, *, batch: int, positions: int | float) -> float:
    """c in F = c · (1/N) Σₙ gₙgₙᵀ, for g as the graph holds them.

    LAYERWISE samples have a scale of their own, 1, with a sum N times it. SAMPLED ones are gradients of a sample's whole
    log-likelihood, EMPIRICAL ones
    of the loss. With a mean over the batch the latter are 1/N of a sample's own. With a mean over tokens (`positions`: s) a
    sequence's log-likelihood is s times what the loss takes for it, and F is that of one token. With a sum, the loss and its
    curvature are N times the mean's.
    """
    if fisher is FisherType.LAYERWISE:
        return float(batch) if mean_over == "none" else 1.0
    of_likelihood = {"batch": 1.0, "token": 1 / positions, "none": float(batch)}[mean_over]
    share_in_loss = {"batch": 1 / batch, "token": 1 / (batch * positions), "none": 1.0}[mean_over]
    return of_likelihood / share_in_loss**2 if fisher is FisherType.EMPIRICAL else of_likelihood


def curvature_along(squares: Tensor, positions: int | float, mean_over: MeanOver, *, batch: int) -> Tensor:
    """dᵀFd = (1/N) Σₙ ⟨d, ∇⁽ⁿ⟩², the empirical Fisher along d (LNGD eq. 13).

    Args:
        squares: `[n]`, ⟨d, ·⟩² of a sub-batch's gradients of the loss, as back-propagated; with "token", summed over tokens.
        positions: s, the tokens of a sample, on average.
        mean_over: what the loss averages over.
        batch: N, the samples of the whole batch.
    """
    return squares.mean() * fisher_weight(FisherType.EMPIRICAL, mean_over, batch=batch, positions=positions)
