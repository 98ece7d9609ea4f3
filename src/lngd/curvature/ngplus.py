"""NG+'s block: the Fisher matrix generalised to gradients as matrices, one dense factor over the outputs."""

import torch

from lngd.curvature.block import CurvatureBlock, Shape
from lngd.curvature.per_sample import output_moments
from lngd.linalg import Damping, as_damping, damped, inverse, kronecker
from lngd.types import Activations, Dense, GradientMatrix, Gradients, OutputFactor


class NGPlusBlock(CurvatureBlock):
    """F ≈ L ⊗ I with L = E[Gₙ Gₙᵀ] `[o, o]`, direction (L + λI)⁻¹ ∇ (Yang et al. 2022, eqs. 2.3–2.5).

    Gₙ = Σₛ gₛ aₛᵀ is a sample's gradient as a matrix. As a matrix on `gradient.flatten()` the block has i times the trace of the
    Fisher matrix, since each column counts with the energy of all: the scale is NG+'s own.
    """

    statistics = ("L",)
    quadratic = (True,)
    inverses = ("L_inverse",)
    splits = False

    L: OutputFactor
    L_inverse: OutputFactor

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return (outputs,)

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        return {"L": (outputs, outputs), "L_inverse": (outputs, outputs)}

    def measure(self, a: Activations, g: Gradients) -> tuple[OutputFactor]:
        self.shape = g.shape[-1], a.shape[-1]
        return (output_moments(a, g),)

    def refresh(self, damping: Damping) -> None:
        self.L_inverse = inverse(damped(self.L, damping, self.L.shape[-1]))

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """(L + λI)⁻¹ ∇."""
        return self.L_inverse @ gradient

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """(L + λI) ⊗ I."""
        L = damped(self.L, as_damping(damping), self.L.shape[-1])
        identity = torch.eye(self.shape[1], dtype=L.dtype, device=L.device)
        return kronecker(L, identity.expand(*L.shape[:-2], -1, -1))
