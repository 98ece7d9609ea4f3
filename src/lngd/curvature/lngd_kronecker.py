"""LNGD's Fisher block of a convolution: Φ as a Kronecker product over channels and kernel, fed without unfolding the input."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.curvature.block import Shape
from lngd.curvature.lngd import LNGDBlock, to_trace_one
from lngd.layers import Patches
from lngd.linalg import (
    Damping,
    as_damping,
    assembled,
    factor_shape,
    inverse,
    inverse_diagonal,
    kronecker,
    mean_eigenvalue,
    second_moments,
    shifted,
    times,
)
from lngd.types import Dense, GradientMatrix, Gradients, InputFactor

KERNEL_SAMPLES = 16
"""Samples of a batch that measure Φ_kernel, nine by nine numbers from many pixels: only this part needs the unfolded input."""


class LNGDKroneckerBlock(LNGDBlock):
    """F ≈ (Φ_channels ⊗ Φ_kernel ⊕ φ_bias) ⊗ Ψ with tr F kept, for a convolution.

    A row of activations is a matrix `[c, k]`, c channels of a group under k places of the kernel. With w = ‖gₛ‖²,
    Φ_channels = E[Σₛ w a aᵀ] is `[c, c]`, Φ_kernel ∝ E[Σₛ w aᵀa] is `[k, k]` and has trace one, φ_bias = E[Σₛ w]. Φ_channels
    is a sum over pixels of the input: w is handed back to all pixels that a position sees.

    Args:
        max_dim: the largest dense matrix.
        places: k.
    """

    statistics = ("phi_channels", "phi_kernel", "phi_bias", "psi")
    quadratic: ClassVar[tuple[bool, ...]] = (True, True, True, True)
    inverses = ("channels_inverse", "kernel_inverse", "bias_inverse", "psi_inverse")
    takes_patches = True

    phi_channels: InputFactor
    phi_kernel: Float[Tensor, "*group k k"]
    phi_bias: Float[Tensor, "*group constants"]
    channels_inverse: InputFactor
    kernel_inverse: Float[Tensor, "*group k k"]
    bias_inverse: Float[Tensor, "*group constants"]

    def __init__(self, max_dim: int, places: int) -> None:
        super().__init__(max_dim)
        self.places = places

    @property
    def phi(self) -> Float[Tensor, "*group i i"]:  # type: ignore[override]  # there a statistic, here made of three
        """Φ written out."""
        return self._written_out(self.phi_channels, self.phi_kernel, self.phi_bias)

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return factor_shape(inputs // self.places, self.largest)[-1], self.places

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        channels, kernel = factor_shape(inputs // self.places, self.largest), (self.places, self.places)
        shapes = (channels, kernel, (inputs % self.places,), self.psi_shape(outputs))
        return dict(zip((*self.statistics, *self.inverses), (*shapes, *shapes), strict=True))

    def measure(self, a: Patches, g: Gradients) -> tuple[Tensor, ...]:  # type: ignore[override]  # as `takes_patches` says
        energies = g.square()
        psi = (energies.flatten(-3, -2).mT @ a.squared_norms().flatten(-2).unsqueeze(-1)).squeeze(-1) / len(a)
        return *self.measure_phi(a, energies.sum(-1), outputs=g.shape[-1]), psi

    def measure_phi(
        self, a: Patches, weights: Float[Tensor, "*group n s"], *, outputs: int
    ) -> tuple[InputFactor, Float[Tensor, "*group k k"], Float[Tensor, "*group constants"]]:
        """The three parts of Φ, each position with its weight w."""
        self.shape = outputs, a.x.shape[1] // a.groups * self.places + a.bias
        channels = second_moments(a.pixels(), a.seen_by(weights), largest=self.largest) / len(a)
        bias = weights.sum((-2, -1)).unsqueeze(-1)[..., : int(a.bias)] / len(a)
        return channels, self._kernel_moments(a, weights), bias

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        channels, kernel, bias, psi = measured
        return channels, kernel / _trace(kernel)[..., None, None], bias, to_trace_one(psi)

    def refresh(self, damping: Damping) -> None:
        channels, kernel, bias = self._damped(damping)
        inverses = (
            inverse(channels),
            inverse(kernel),
            inverse_diagonal(bias),
            self.inverse_of_psi(damping),
        )
        self.channels_inverse, self.kernel_inverse, self.bias_inverse, self.psi_inverse = inverses

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ (Φ̂_channels ⊗ Φ̂_kernel)⁻¹; the bias by itself."""
        return self.by_phi(gradient) * self.psi_inverse.unsqueeze(-1)

    def by_phi(self, gradient: GradientMatrix) -> GradientMatrix:
        """∇ (Φ̂_channels ⊗ Φ̂_kernel)⁻¹."""
        constants = self.bias_inverse.shape[-1]
        weight = gradient[..., :-1] if constants else gradient
        kernels = weight.unflatten(-1, (-1, self.places)) @ self.kernel_inverse.unsqueeze(-3)  # [o, c, k]
        rows = kernels.transpose(-2, -1).flatten(-3, -2)  # [o·k, c]
        solved = times(rows, self.channels_inverse).unflatten(-2, (-1, self.places)).transpose(-2, -1).flatten(-2)
        if constants:
            solved = torch.cat([solved, gradient[..., -1:] * self.bias_inverse.unsqueeze(-2)], dim=-1)
        return solved

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        damping = as_damping(damping)
        return kronecker(self.dense_psi(damping), self._written_out(*self._damped(damping)))

    def _kernel_moments(self, a: Patches, weights: Float[Tensor, "*group n s"]) -> Float[Tensor, "*group k k"]:
        chosen = slice(None, None, -(-len(a) // KERNEL_SAMPLES))
        rows, some = a.only(chosen).kernel_rows(), weights[..., chosen, :]
        repeated = some.unsqueeze(-1).expand(rows.shape[:-1])
        return second_moments(rows.flatten(-4, -2), repeated.flatten(-3)) / some.shape[-2]

    def _damped(self, damping: Damping) -> tuple[InputFactor, Tensor, Tensor]:
        """Φ_channels, Φ_kernel and φ_bias, damped; λ is relative to the mean eigenvalue of the whole Φ."""
        channels = (self.shape[1] - self.phi_bias.shape[-1]) // self.places
        mean_channels, mean_kernel = mean_eigenvalue(self.phi_channels, channels), mean_eigenvalue(self.phi_kernel, self.places)
        shift_channels, shift_kernel = damping.of_kronecker(mean_channels, mean_kernel)
        mean = (mean_channels * channels + self.phi_bias.sum(-1)) / self.shape[1]
        return (
            shifted(self.phi_channels, shift_channels, channels),
            shifted(self.phi_kernel, shift_kernel, self.places),
            self.phi_bias + damping.of_mean(mean).unsqueeze(-1),
        )

    def _written_out(self, channels: InputFactor, kernel: Tensor, bias: Tensor) -> Float[Tensor, "*group i i"]:
        weights = self.shape[1] - bias.shape[-1]
        whole = kernel.new_zeros(*kernel.shape[:-2], *self.shape[1:] * 2)
        whole[..., :weights, :weights] = kronecker(assembled(channels, weights // self.places), kernel)
        whole[..., weights:, weights:] = torch.diag_embed(bias)
        return whole


def _trace(matrix: Float[Tensor, "*group k k"]) -> Float[Tensor, "*group"]:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(matrix.dtype).tiny)
