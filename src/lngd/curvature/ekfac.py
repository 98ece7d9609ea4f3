"""EKFAC's Fisher block: K-FAC's eigenvectors with the gradient's true second moments along them as eigenvalues."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lngd.curvature.block import Shape, input_shape
from lngd.curvature.kfac import KFACBlock
from lngd.curvature.per_sample import squared_gradients
from lngd.linalg import (
    Damping,
    NotPositiveDefiniteError,
    as_damping,
    assembled,
    eigenbasis,
    kronecker,
    times,
    transposed,
)
from lngd.types import Activations, Dense, GradientMatrix, Gradients, InputFactor, OneHot, OutputFactor


class EKFACBlock(KFACBlock):
    """F ≈ (U_A ⊗ U_B) S (U_A ⊗ U_B)ᵀ, S = E[(U_Bᵀ Gₙ U_A)²] elementwise (George et al. 2018, eq. 8).

    U_A, U_B are the eigenvectors of K-FAC's averaged A and B, renewed by `refresh`. S is the diagonal that is nearest to F in
    that basis, so the block is never farther from F (Frobenius norm) than K-FAC's. It belongs to its basis: when the basis moves,
    S starts again from K-FAC's own eigenvalues and the next measurement replaces them. So measure more often than you refresh.
    """

    quadratic = (False, True, False, True)
    splits = False
    inverses = ("A_basis", "B_basis", "scales", "scales_weight", "shift")

    A_basis: InputFactor
    B_basis: OutputFactor
    scales: GradientMatrix
    scales_weight: Tensor
    shift: Tensor

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        A, B = input_shape(inputs, one_hot), (outputs, outputs)
        bases = {"A": A, "B": B, "A_basis": A, "B_basis": B}
        return {**bases, "scales": (outputs, inputs), "scales_weight": (), "shift": (1,)}

    def measure(self, a: Activations, g: Gradients) -> tuple[Tensor, ...]:
        return *super().measure(a, g), self._along_the_basis(a, g) if self.ready else g.new_zeros(())

    def nothing(self, state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        *factors, scales = super().nothing(state)
        return *factors, torch.zeros_like(state["scales"]) if self.ready else scales

    def update(self, measured: tuple[Tensor, ...], decay: float) -> None:
        """A and B as ever; S since the basis last moved."""
        *factors, scales = measured
        super().update(tuple(factors), decay)
        if self.ready:
            weight = 1 - decay * (1 - self.scales_weight)  # 1 − βᵏ after k measurements
            self.scales = self.scales.lerp(scales, (1 - decay) / weight)
            self.scales_weight = weight

    def refresh(self, damping: Damping) -> None:
        (A_values, A_basis), (B_values, B_basis) = map(eigenbasis, self.factors())
        largest = torch.finfo(A_values.dtype).max  # for the product of two factors that float32 can hold there may be no room
        scales = (B_values.unsqueeze(-1) * A_values.unsqueeze(-2)).clamp(max=largest)
        shift = damping.of_mean(scales.mean((-2, -1))).clamp(max=largest)
        if not (scales.amin((-2, -1)) + shift > 0).all():
            raise NotPositiveDefiniteError("an eigenvalue is zero: raise the damping")
        self.A_basis, self.B_basis, self.scales, self.shift = A_basis, B_basis, scales, shift.unsqueeze(-1)
        self.scales_weight = shift.new_zeros(())

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """U_B [(U_Bᵀ ∇ U_A) / (S + λ)] U_Aᵀ; λ is that of the last refresh."""
        rotated = times(self.B_basis.mT @ gradient, self.A_basis)
        damped = (self.scales + self.shift[..., None]).clamp(min=torch.finfo(rotated.dtype).tiny)
        return times(self.B_basis @ (rotated / damped), transposed(self.A_basis))

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """U (S + λI) Uᵀ with λ relative to K-FAC's mean eigenvalue, as at a refresh; before the first refresh, K-FAC's block."""
        if not self.ready:
            return super().dense(damping)
        mean_A, mean_B = self._means()
        mean = mean_A * mean_B
        basis = kronecker(self.B_basis, assembled(self.A_basis, self.shape[1]))
        diagonal = (self.scales + as_damping(damping).of_mean(mean)[..., None, None]).flatten(-2)
        return (basis * diagonal.unsqueeze(-2)) @ basis.mT

    def _along_the_basis(self, a: Activations, g: Gradients) -> GradientMatrix:
        along_A = a if isinstance(a, OneHot) else a @ self.A_basis.unsqueeze(-3)
        return squared_gradients(along_A, g @ self.B_basis.unsqueeze(-3))
