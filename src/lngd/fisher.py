"""Which `g` a Fisher matrix is made of, and at what scale: everything here is about samples, nothing about layers.

Convention: a sample's negative log-likelihood is what the loss is the mean of, so per-sample gradients average to the loss's.
Every factor between what the graph holds and such a gradient (mean over the batch, over tokens, a sum) is in `fisher_weight`.
"""

from enum import Enum
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from lngd.types import AnyTensor

Noise = Literal["rademacher", "gaussian"]
MeanOver = Literal["batch", "token", "none"]
"""What the loss averages over; "none": it is a sum over samples."""
Likelihood = Literal["categorical", "bernoulli", "gaussian"]
"""What the model's output parametrises: logits of classes, logits of yes or no, or the mean of a unit normal."""


class FisherType(Enum):
    """Where a layer's pre-activation gradients come from."""

    LAYERWISE = "layerwise"
    """g = Jᵩᵀ ε, E[ε εᵀ] = I: each layer samples what the next one receives, p(â|a) = N(a, I) (LNGD sec. 3.1).
    Ready in the forward pass. At the model's output nothing follows and g = ε."""

    EMPIRICAL = "empirical"
    """g = −∇ₛ log p(y|x) with the labels y of the data: the user's own backward brings it. No Fisher matrix in the proper sense,
    since y is not drawn from the model; it vanishes as the data are fitted."""

    SAMPLED = "sampled"
    """g = −∇ₛ log p(ŷ|x) with ŷ drawn from the model (LNGD eq. 1), by a backward pass of our own at the end of the forward."""


def draw(noise: Noise, generator: torch.Generator, *, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> AnyTensor:
    """ε with E[ε εᵀ] = I, drawn on the generator's device.

    Only that second moment enters the Fisher matrix, so signs (Rademacher) do as well as the paper's Gaussian, and for an
    element-wise activation they give g² = φ'(s)² with no variance at all.
    """
    if noise == "gaussian":
        return torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator).to(device)
    return _signs(shape.numel(), generator).to(device, dtype).mul_(2).sub_(1).reshape(shape)


def sampled_gradient(likelihood: Likelihood, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """−∇ log p(ŷ|outputs), ŷ drawn from the model: softmax(z) − onehot(ŷ), σ(z) − ŷ, or −ε.

    Classes are the last dimension of `[n, C]` and `[n, tokens, C]`, the second of `[n, C, height, width]` and beyond.
    Never fails on a NaN: it comes back, and the step is skipped.

    Raises:
        ValueError: no dimension of classes, or one class only, whose gradient is zero.
    """
    outputs = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
    if likelihood == "gaussian":
        return draw("gaussian", generator, shape=outputs.shape, dtype=outputs.dtype, device=outputs.device)
    if likelihood == "bernoulli":
        p = outputs.sigmoid()
        return p - (_uniform(p, generator) < p).to(p.dtype)
    axis = 1 if outputs.dim() > 3 else -1
    if outputs.dim() < 2 or outputs.shape[axis] < 2:
        raise ValueError(
            f"likelihood='categorical' needs two classes or more, the model's output has shape {tuple(outputs.shape)}: "
            "for yes-or-no logits give likelihood='bernoulli', for regression 'gaussian'"
        )
    gumbel = -_uniform(outputs, generator).log().neg().log()  # argmax(z + gumbel) is distributed as softmax(z)
    chosen = (outputs + gumbel).argmax(axis, keepdim=True)
    return outputs.softmax(axis).scatter_add(axis, chosen, -torch.ones_like(chosen, dtype=outputs.dtype))


@cache
def fisher_weight(fisher: FisherType, mean_over: MeanOver, *, batch: int, positions: int) -> float:
    """c in F = c · (1/N) Σₙ gₙgₙᵀ, for g as the graph holds them.

    LAYERWISE samples have a scale of their own: 1. SAMPLED ones are gradients of a sample's whole log-likelihood, EMPIRICAL ones
    of the loss. With a mean over the batch the latter are 1/N of a sample's own. With a mean over tokens (`positions`: s) a
    sequence's log-likelihood is s times what the loss takes for it, and F is that of one token. With a sum, the loss and its
    curvature are N times the mean's.
    """
    if fisher is FisherType.LAYERWISE:
        return 1.0
    of_likelihood = {"batch": 1.0, "token": 1 / positions, "none": float(batch)}[mean_over]
    share_in_loss = {"batch": 1 / batch, "token": 1 / (batch * positions), "none": 1.0}[mean_over]
    return of_likelihood / share_in_loss**2 if fisher is FisherType.EMPIRICAL else of_likelihood


def curvature_along(squares: Tensor, positions: int, mean_over: MeanOver, *, batch: int) -> Tensor:
    """dᵀFd = (1/N) Σₙ ⟨d, ∇⁽ⁿ⟩², the empirical Fisher along d (LNGD eq. 13).

    Args:
        squares: `[n]`, ⟨d, ·⟩² of a sub-batch's gradients of the loss, as back-propagated; with "token", summed over tokens.
        positions: s, the tokens of a sample.
        mean_over: what the loss averages over.
        batch: N, the samples of the whole batch.
    """
    return squares.mean() * fisher_weight(FisherType.EMPIRICAL, mean_over, batch=batch, positions=positions)


def _signs(n: int, generator: torch.Generator) -> Tensor:
    """n random bits, 64 from each draw: a twentieth of the time of n draws."""
    words = torch.empty(-(-n // 64), dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)
    shifts = torch.arange(8, dtype=torch.uint8, device=generator.device).unsqueeze(1)
    return ((words.view(torch.uint8) >> shifts) & 1).flatten()[:n]


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """In (0, 1)."""
    u = torch.empty(like.shape, dtype=like.dtype, device=generator.device).uniform_(generator=generator)
    return u.clamp(min=torch.finfo(u.dtype).tiny).to(like.device)
