"""LNGD's Fisher block: a dense factor over the inputs, a diagonal one over the outputs, both ready in the forward pass."""

from copy import copy
from typing import ClassVar

import torch
from torch import Tensor

from lngd.curvature.block import CurvatureBlock, Shape, dense_dims, input_shape
from lngd.linalg import (
    Damping,
    as_damping,
    assembled,
    damped,
    damped_diagonal,
    inverse,
    inverse_diagonal,
    kronecker,
    second_moments,
    squared_norms,
    times,
)
from lngd.types import Activations, Dense, GradientMatrix, Gradients, InputFactor, OutputDiagonal, OutputFactor


class LNGDBlock(CurvatureBlock):
    """F ≈ Φ ⊗ Ψ with tr F = tr Φ · tr Ψ (LNGD eqs. 3–5).

    Φ = E[Σₛ ‖gₛ‖² aₛ aₛᵀ] is `[i, i]`; Ψ = E[Σₛ ‖aₛ‖² gₛ²] / tr Φ is `[o]` and sums to one. Sums run over positions, means over
    samples. As a matrix on `gradient.flatten()` (row-major, outputs first) the block is `kron(diag Ψ, Φ)`. With more
    than `max_dim` inputs only diagonal blocks of Φ are kept, `[k, b, b]`.
    """

    statistics: ClassVar[tuple[str, ...]] = ("phi", "psi")
    quadratic: ClassVar[tuple[bool, ...]] = (True, True)
    inverses: ClassVar[tuple[str, ...]] = ("phi_inverse", "psi_inverse")
    by_rows: ClassVar[bool] = True

    phi: InputFactor
    psi: OutputDiagonal | OutputFactor
    phi_inverse: InputFactor
    psi_inverse: OutputDiagonal | OutputFactor

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return dense_dims(inputs, one_hot, self.largest)

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        phi, psi = input_shape(inputs, one_hot, self.largest), self.psi_shape(outputs)
        return {"phi": phi, "psi": psi, "phi_inverse": phi, "psi_inverse": psi}

    def psi_shape(self, outputs: int) -> Shape:
        """Of Ψ, per group."""
        return (outputs,)

    def measure(self, a: Activations, g: Gradients) -> tuple[InputFactor, OutputDiagonal]:
        self.shape = g.shape[-1], a.shape[-1]
        n = a.shape[-3]
        rows, energies = a.flatten(-3, -2), g.square().flatten(-3, -2)  # one row per sample and position
        phi = second_moments(rows, energies.sum(-1), largest=self.largest) / n
        psi = (energies.mT @ squared_norms(rows).unsqueeze(-1)).squeeze(-1) / n
        return phi, psi

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Ψ to trace one. A layer of which no output reacts to any input keeps Ψ = 0."""
        phi, psi = measured
        return phi, to_trace_one(psi)

    def refresh(self, damping: Damping) -> None:
        phi = damped(self.phi, damping, self.shape[1])
        self.phi_inverse, self.psi_inverse = inverse(phi), self.inverse_of_psi(damping)

    def inverse_of_psi(self, damping: Damping) -> OutputFactor | OutputDiagonal:
        """Ψ̂⁻¹."""
        return inverse_diagonal(damped_diagonal(self.psi, damping))

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """Ψ̂⁻¹ ∇ Φ̂⁻¹."""
        return times(gradient, self.phi_inverse).mul_(self.psi_inverse.unsqueeze(-1))

    def precondition_rows(self, rows: GradientMatrix, outputs: slice) -> GradientMatrix:
        part = copy(self)
        part.psi_inverse = self.psi_inverse[outputs]
        return part.precondition(rows)

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """(Ψ + λ_Ψ I) ⊗ (Φ + λ_Φ I)."""
        damping = as_damping(damping)
        phi = assembled(damped(self.phi, damping, self.shape[1]), self.shape[1])
        return kronecker(self.dense_psi(damping), phi)

    def dense_psi(self, damping: Damping) -> Dense:
        """Ψ + λ_Ψ I, written out."""
        return torch.diag_embed(damped_diagonal(self.psi, damping))


def to_trace_one(diagonal: OutputDiagonal) -> OutputDiagonal:
    """Scaled to sum to one; zero stays zero."""
    return diagonal / diagonal.sum(-1, keepdim=True).clamp(min=torch.finfo(diagonal.dtype).tiny)
