"""The spectral step's Fisher blocks: Φ as LNGD has it, and Ψ, which LNGD keeps as a diagonal, whole.

The step sees F up to a factor only. So each factor is kept with mean eigenvalue one: what is measured while gradients are large
counts no more than what is measured when the data are nearly fitted, and nothing depends on the scale of the loss.
"""

import torch
from torch import Tensor

from lngd.curvature.block import Shape, dense_dims
from lngd.curvature.lngd import LNGDBlock
from lngd.curvature.lngd_kronecker import LNGDKroneckerBlock
from lngd.linalg import (
    Damping,
    assembled,
    damped,
    factor_shape,
    inverse,
    mean_eigenvalue,
    second_moments,
    times,
    times_left,
)
from lngd.types import Dense, Energies, GradientMatrix, GradientRows, OutputFactor


class WholePsi(LNGDBlock):
    """What the two blocks share: Ψ ∝ E[Σₛ ‖aₛ‖² gₛgₛᵀ] (TKFAC's, Gao et al. 2021, eq. 3.5).

    With more than `max_dim` outputs only diagonal blocks of it are kept, `[k, b, b]`.
    """

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return *super().dims(inputs, outputs, one_hot=one_hot), *dense_dims(outputs, one_hot=False, largest=self.largest)

    def psi_shape(self, outputs: int) -> Shape:
        return factor_shape(outputs, self.largest)

    def measure_psi(self, grads: GradientRows, weights: Energies) -> OutputFactor:
        """Σ w ggᵀ, w = ‖a‖²."""
        return second_moments(grads, weights, largest=self.largest)

    def inverse_of_psi(self, damping: Damping) -> OutputFactor:
        return inverse(damped(self.psi, damping, self.shape[0]))

    def dense_psi(self, damping: Damping) -> Dense:
        return assembled(damped(self.psi, damping, self.shape[0]), self.shape[0])


class SpectralBlock(WholePsi):
    """F ∝ Φ ⊗ Ψ with Φ ∝ E[Σₛ ‖gₛ‖² aₛaₛᵀ] (LNGD eq. 4)."""

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        phi, psi = measured
        o, i = self.shape
        return over(phi, mean_eigenvalue(phi, i)), over(psi, mean_eigenvalue(psi, o))

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ Φ̂⁻¹."""
        return times_left(self.psi_inverse, times(gradient, self.phi_inverse))


class SpectralKroneckerBlock(WholePsi, LNGDKroneckerBlock):
    """F ∝ (Φ_channels ⊗ Φ_kernel ⊕ φ_bias) ⊗ Ψ, of a convolution."""

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        channels, kernel, bias, psi = measured
        mean = mean_eigenvalue(channels, (self.shape[1] - bias.shape[-1]) // self.places)
        factors = over(channels, mean), over(kernel, self.places * mean_eigenvalue(kernel, self.places)), over(bias, mean)
        return *factors, over(psi, mean_eigenvalue(psi, self.shape[0]))

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ Φ̂⁻¹."""
        return times_left(self.psi_inverse, self.by_phi(gradient))


def over(factor: Tensor, size: Tensor) -> Tensor:
    """Each group's factor over its size; zero stays zero."""
    return factor / size.clamp(min=torch.finfo(size.dtype).tiny).reshape(*size.shape, *[1] * (factor.dim() - size.dim()))
