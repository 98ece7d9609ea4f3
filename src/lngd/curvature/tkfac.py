"""TKFAC's Fisher block: K-FAC's two factors, each weighted by the other side's energy, so that the trace is kept."""

import torch
from torch import Tensor

from lngd.curvature.kfac import KFACBlock
from lngd.linalg import mean_eigenvalue, second_moments, squared_norms
from lngd.types import Activations, Gradients, InputFactor, OutputFactor


class TKFACBlock(KFACBlock):
    """F ≈ δ P ⊗ Q with tr F = δ, tr P = tr Q = 1 (Gao et al. 2021, eqs. 3.3–3.5).

    δ = E[Σₛ ‖aₛ‖²‖gₛ‖²], P = E[Σₛ ‖gₛ‖² aₛaₛᵀ]/δ, Q = E[Σₛ ‖aₛ‖² gₛgₛᵀ]/δ. What is averaged over steps is A = δP and B = δQ,
    whose traces are both δ, so that the averages keep the averaged trace.
    """

    quadratic = (True, True)

    def measure(self, a: Activations, g: Gradients) -> tuple[Tensor, ...]:
        n = a.shape[-3]
        rows, grads = a.flatten(-3, -2), g.flatten(-3, -2)
        self.shape = g.shape[-1], a.shape[-1]
        A = second_moments(rows, squared_norms(grads), largest=self.largest) / n
        B = second_moments(grads, squared_norms(rows), largest=self.largest) / n
        return A, B

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return measured

    def factors(self) -> tuple[InputFactor, OutputFactor]:
        """δP and Q."""
        delta = mean_eigenvalue(self.A, self.shape[1]) * self.shape[1]
        delta = delta.clamp(min=torch.finfo(delta.dtype).tiny)
        return self.A, self.B / delta.reshape(*delta.shape, *[1] * (self.B.dim() - delta.dim()))
