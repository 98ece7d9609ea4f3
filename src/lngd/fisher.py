"""Which `g` a Fisher matrix is made of, and at what scale: everything here is about samples, nothing about layers.

Convention: a sample's log-likelihood is what the loss is the mean of, so per-sample gradients average to the loss's gradient.
"""

from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from lngd.types import AnyTensor

Noise = Literal["rademacher", "gaussian"]
MeanOver = Literal["batch", "token"]


class FisherType(Enum):
    """Where a layer's pre-activation gradients come from."""

    LAYERWISE = "layerwise"
    """g = Jᵩᵀ ε, E[ε εᵀ] = I: each layer samples what the next one receives, p(â|a) = N(a, I) (LNGD sec. 3.1).
    Ready in the forward pass. At the model's output nothing follows and g = ε."""


def draw(noise: Noise, generator: torch.Generator, *, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> AnyTensor:
    """ε with E[ε εᵀ] = I, drawn on the generator's device.

    Only that second moment enters the Fisher matrix, so signs (Rademacher) do as well as the paper's Gaussian, and for an
    element-wise activation they give g² = φ'(s)² with no variance at all.
    """
    epsilon = torch.empty(shape, dtype=dtype, device=generator.device)
    if noise == "gaussian":
        epsilon.normal_(generator=generator)
    else:
        epsilon.bernoulli_(generator=generator).mul_(2).sub_(1)
    return epsilon.to(device)


def curvature_along(slopes: Tensor, positions: int, mean_over: MeanOver) -> Tensor:
    """dᵀFd = (1/N) Σₙ ⟨d, ∇⁽ⁿ⟩², the empirical Fisher along d (LNGD eq. 13).

    Args:
        slopes: `[n]`, ⟨d, ∇⁽ⁿ⟩ of a sub-batch, with ∇⁽ⁿ⟩ scaled so that its mean over the batch is the gradient.
        positions: s, the tokens of a sample. Where the loss is a mean over tokens (`mean_over="token"`), a sequence's
            log-likelihood is s times what the loss takes for it, and the Fisher matrix of one token is s times larger
            than the outer products of mean gradients say.
        mean_over: what the loss averages over.
    """
    scale = positions if mean_over == "token" else 1
    return slopes.square().mean() * scale
