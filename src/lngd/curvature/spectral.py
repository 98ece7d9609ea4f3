"""The spectral step's Fisher blocks: the moments of what enters a layer and of the gradients that come back, both whole.

The step sees F up to a factor only. So each factor is kept with mean eigenvalue one: what is measured while gradients are large
counts no more than what is measured when the data are nearly fitted, and nothing depends on the scale of the loss.
"""

from abc import abstractmethod
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from lngd.curvature.block import Shape, dense_dims
from lngd.curvature.lngd import LNGDBlock
from lngd.curvature.lngd_kronecker import LNGDKroneckerBlock
from lngd.layers import Patches
from lngd.linalg import (
    Damping,
    assembled,
    damped,
    factor_shape,
    inverse,
    inverse_root_of_symmetric,
    mean_eigenvalue,
    product,
    root,
    second_moments,
    symmetric_product,
    times,
    times_left,
    transposed,
)
from lngd.types import Activations, Dense, GradientMatrix, Gradients, InputFactor, OutputFactor


class WholePsi(LNGDBlock):
    """What the two blocks share: Ψ ∝ E[Σₛ gₛgₛᵀ], K-FAC's factor over the outputs, where LNGD has a diagonal.

    With more than `max_dim` outputs only diagonal blocks of it are kept, `[k, b, b]`.
    """

    damps_last_outputs: ClassVar[bool] = True
    phi_parts: ClassVar[tuple[str, ...]] = ("phi_inverse",)
    """What Φ̂⁻¹ is made of."""
    by_rows: ClassVar[bool] = False

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return *super().dims(inputs, outputs, one_hot=one_hot), *dense_dims(outputs, one_hot=False, largest=self.largest)

    def psi_shape(self, outputs: int) -> Shape:
        return factor_shape(outputs, self.largest)

    def measure_psi(self, g: Gradients) -> OutputFactor:
        """E[Σₛ ggᵀ]."""
        return second_moments(g.flatten(-3, -2), largest=self.largest) / g.shape[-3]

    def inverse_of_psi(self, damping: Damping) -> OutputFactor:
        return inverse(damped(self.psi, damping.of_outputs, self.shape[0]))

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ Φ̂⁻¹."""
        return times_left(self.psi_inverse, self.by_phi(gradient))

    def orthogonalise(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ Φ̂⁻¹ with all singular values set to one.

        With Ψ̂⁻¹ = L Lᵀ, H = Lᵀ ∇ and P = H Φ̂⁻¹ it is L (P Hᵀ)^(−½) P; where there are more outputs than inputs, the same from the
        other side. P Hᵀ is symmetric, so that Cholesky factors do, which a CPU makes faster than it multiplies. On a GPU it is
        the other way round: there it is made of products.
        """
        if gradient.device.type != "cpu":
            return super().orthogonalise(gradient)
        if gradient.shape[-2] <= gradient.shape[-1]:
            lower = root(self.psi_inverse)
            half = times_left(transposed(lower), gradient)
            natural = self.by_phi(half)
            root_of_square = inverse_root_of_symmetric(symmetric_product(natural.mT, half.mT))
            return times_left(lower, product(root_of_square, natural))
        lower_phi, upper_phi = self.phi_roots()
        half = lower_phi.by_phi(gradient)
        natural = times_left(self.psi_inverse, half)
        root_of_square = inverse_root_of_symmetric(symmetric_product(half, natural))
        return upper_phi.by_phi(product(natural, root_of_square))

    @abstractmethod
    def by_phi(self, gradient: GradientMatrix) -> GradientMatrix:
        """∇ Φ̂⁻¹."""

    def phi_roots(self) -> tuple["WholePsi", "WholePsi"]:
        """Copies with R and with Rᵀ in the place of Φ̂⁻¹ = R Rᵀ."""
        lower, upper = copy(self), copy(self)
        for name in self.phi_parts:
            factor = root(getattr(self, name))
            setattr(lower, name, factor)
            setattr(upper, name, transposed(factor))
        return lower, upper

    def dense_psi(self, damping: Damping) -> Dense:
        return assembled(damped(self.psi, damping.of_outputs, self.shape[0]), self.shape[0])


class SpectralBlock(WholePsi):
    """F ∝ Φ ⊗ Ψ with Φ ∝ E[Σₛ aₛaₛᵀ]: K-FAC's factors, up to their scale (Martens and Grosse 2015)."""

    quadratic: ClassVar[tuple[bool, ...]] = (False, True)

    def measure(self, a: Activations, g: Gradients) -> tuple[InputFactor, OutputFactor]:
        self.shape = g.shape[-1], a.shape[-1]
        return second_moments(a.flatten(-3, -2), largest=self.largest) / a.shape[-3], self.measure_psi(g)

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        phi, psi = measured
        o, i = self.shape
        return over(phi, mean_eigenvalue(phi, i)), over(psi, mean_eigenvalue(psi, o))

    def by_phi(self, gradient: GradientMatrix) -> GradientMatrix:
        return times(gradient, self.phi_inverse)


class SpectralKroneckerBlock(WholePsi, LNGDKroneckerBlock):
    """F ∝ (Φ_channels ⊗ Φ_kernel ⊕ φ_bias) ⊗ Ψ of a convolution, every position with the same weight."""

    quadratic: ClassVar[tuple[bool, ...]] = (False, False, False, True)
    phi_parts: ClassVar[tuple[str, ...]] = ("channels_inverse", "kernel_inverse")

    def by_phi(self, gradient: GradientMatrix) -> GradientMatrix:
        return LNGDKroneckerBlock.by_phi(self, gradient)

    def phi_roots(self) -> tuple["WholePsi", "WholePsi"]:
        found: Any = super().phi_roots()
        for each in found:
            each.bias_inverse = self.bias_inverse.sqrt()
        return found

    def measure(self, a: Patches, g: Gradients) -> tuple[Tensor, ...]:  # type: ignore[override]  # as `takes_patches` says
        return *self.measure_phi(a, torch.ones_like(g[..., 0]), outputs=g.shape[-1]), self.measure_psi(g)

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        channels, kernel, bias, psi = measured
        mean = mean_eigenvalue(channels, (self.shape[1] - bias.shape[-1]) // self.places)
        factors = over(channels, mean), over(kernel, self.places * mean_eigenvalue(kernel, self.places)), over(bias, mean)
        return *factors, over(psi, mean_eigenvalue(psi, self.shape[0]))


def over(factor: Tensor, size: Tensor) -> Tensor:
    """Each group's factor over its size; zero stays zero."""
    return factor / size.clamp(min=torch.finfo(size.dtype).tiny).reshape(*size.shape, *[1] * (factor.dim() - size.dim()))
