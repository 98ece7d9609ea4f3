"""Theorem 1 on quadratic models: one rate a layer (eq. 10) against one rate for all layers (eq. 11), same directions.

All that a model (eq. 9) knows of a step is the slopes sₗ = ⟨dₗ, ∇ₗ⟩ and the curvature C = D̃ᵀHD̃, `[layers, layers]`. The theorem
assumes a block-diagonal H, so a diagonal C. Rates always come from that diagonal; `decrease` may be asked about any C.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Slopes = Float[Tensor, "*t layers"]
Curvature = Float[Tensor, "*t layers layers"]
PerModel = Float[Tensor, "*t"]

SCALE = 2.0
"""Each layer's part of A or J, of d and of ∇ is multiplied with a 10ᵘ of its own, u uniform in ±SCALE/2."""
RIDGE = 1e-3
"""Added to JᵀJ, in units of its mean eigenvalue, to make it positive definite."""


@dataclass(frozen=True)
class Quadratics:
    """Many models at once."""

    slopes: Slopes
    curvature: Curvature

    def coupled(self, share: float) -> "Quadratics":
        """The same models with the blocks of H that couple two layers times `share`: 0 is the theorem's block-diagonal H."""
        own = torch.diag_embed(self.curvature.diagonal(dim1=-2, dim2=-1))
        return Quadratics(self.slopes, own.lerp(self.curvature, share))


def layer_rates(models: Quadratics) -> Slopes:
    """α_l = ⟨dₗ,∇ₗ⟩ / dₗᵀHₗdₗ (LNGD eq. 10)."""
    return models.slopes / models.curvature.diagonal(dim1=-2, dim2=-1)


def single_rate(models: Quadratics) -> Slopes:
    """α = ⟨d,∇⟩ / dᵀHd with the block-diagonal H, once for each layer (LNGD eq. 11)."""
    curvature = models.curvature.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    return (models.slopes.sum(-1, keepdim=True) / curvature).expand_as(models.slopes)


def decrease(models: Quadratics, rates: Slopes) -> PerModel:
    """How far the model falls: ⟨D̃α,∇⟩ − ½(D̃α)ᵀH D̃α = s·α − ½αᵀCα (LNGD eq. 9)."""
    return (models.slopes * rates).sum(-1) - torch.einsum("...l,...lm,...m->...", rates, models.curvature, rates) / 2


def violation(models: Quadratics) -> PerModel:
    """(single − per layer) / |per layer| of the decreases: Theorem 1 says that it is not positive where C is diagonal."""
    layered = decrease(models, layer_rates(models))
    return (decrease(models, single_rate(models)) - layered) / layered.abs()


def gain(models: Quadratics) -> PerModel:
    """Decrease with one rate a layer over the decrease with one rate."""
    return decrease(models, layer_rates(models)) / decrease(models, single_rate(models))


def measured_gain(slopes: Slopes, kappas: Slopes) -> PerModel:
    """The gain where κ = dₗᵀFₗdₗ / ⟨dₗ,∇ₗ⟩ was measured: Σ s/κ · Σ sκ / (Σ s)², as eq. 12 with µ → 0 and eq. 11 give it."""
    return (slopes / kappas).sum(-1) * (slopes * kappas).sum(-1) / slopes.sum(-1).square()


def random_quadratics(trials: int, layers: int, block: int, generator: torch.Generator) -> Quadratics:
    """H = AAᵀ with a square Gaussian A; d and ∇ unrelated but for ⟨dₗ,∇ₗ⟩ > 0, which every preconditioner ensures."""
    size = layers * block
    root = _normal(trials, size, size, generator=generator) * _scales(trials, layers, block, generator).unsqueeze(-1)
    direction, gradient = (
        _normal(trials, size, generator=generator) * _scales(trials, layers, block, generator) for _ in range(2)
    )
    slopes = (direction * gradient).unflatten(-1, (layers, block)).sum(-1)
    return Quadratics(slopes.abs(), _curvature(root.mT, direction * slopes.sign().repeat_interleave(block, dim=-1), layers))


def least_squares(trials: int, layers: int, block: int, generator: torch.Generator) -> Quadratics:
    """H = JᵀJ + ridge, ∇ = Jᵀr, d = ∇: all layers work on the same residual r, as in a network."""
    size, samples = layers * block, 2 * block
    jacobian = _normal(trials, samples, size, generator=generator) * _scales(trials, layers, block, generator).unsqueeze(1)
    residual = _normal(trials, samples, generator=generator)
    gradient = torch.einsum("tni,tn->ti", jacobian, residual)
    ridge = RIDGE * jacobian.square().sum((1, 2)) / size
    slopes = gradient.square().unflatten(-1, (layers, block)).sum(-1)
    return Quadratics(slopes, _curvature(jacobian, gradient, layers) + torch.diag_embed(ridge[:, None] * slopes))


def _curvature(root: Tensor, direction: Tensor, layers: int) -> Curvature:
    """D̃ᵀ RᵀR D̃."""
    block = direction.shape[-1] // layers
    moved = (root * direction.unsqueeze(-2)).unflatten(-1, (layers, block)).sum(-1)
    return moved.mT @ moved


def _scales(trials: int, layers: int, block: int, generator: torch.Generator) -> Tensor:
    exponents = (torch.rand(trials, layers, generator=generator, dtype=torch.float64) - 0.5) * SCALE
    return (10**exponents).repeat_interleave(block, dim=-1)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
