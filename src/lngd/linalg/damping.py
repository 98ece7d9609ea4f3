"""How much of the identity is added to a factor before it is inverted."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

LARGEST_PI = 1e10
"""Where a factor is zero, because its layer is dead, π would be infinite."""


@dataclass(frozen=True)
class Damping:
    """λ = clip(relative · tr(F)/dim F, ν₁, ν₂): damping in units of the factor's mean eigenvalue (LNGD sec. 3.3).

    The paper fixes `relative` at 1 and ν₂ at 1e-2. That upper bound binds for any factor of ordinary size and lets directions
    of low variance explode, so ours is infinite by default.
    """

    relative: float
    bounds: tuple[float, float] = (0.0, math.inf)
    outputs: float = 1.0
    """What `relative` is multiplied with for the spectral step's factor over the outputs."""

    @property
    def of_outputs(self) -> "Damping":
        """That factor's."""
        return self if self.outputs == 1 else Damping(self.outputs * self.relative, self.bounds)

    def of_mean(self, mean: Float[Tensor, "*group"]) -> Float[Tensor, "*group"]:
        """λ of whatever has this mean eigenvalue."""
        return (self.relative * mean).clamp(*self.bounds)

    def of_kronecker(self, A: Float[Tensor, "*group"], B: Float[Tensor, "*group"]) -> tuple[Tensor, Tensor]:
        """λ of A ⊗ B, from the factors' mean eigenvalues, as a shift of each: π√λ for A, √λ/π for B, π² = mean A / mean B.

        (A + π√λ I) ⊗ (B + √λ/π I) is the factorisation nearest to A ⊗ B + λI (Martens & Grosse 2015, sec. 6.3).
        """
        root, pi = self.of_mean(A * B).sqrt(), (A.sqrt() / B.sqrt()).nan_to_num(1.0).clamp(1 / LARGEST_PI, LARGEST_PI)
        return root * pi, root / pi


def as_damping(damping: Damping | float) -> Damping:
    """A plain number as damping without bounds."""
    return damping if isinstance(damping, Damping) else Damping(damping)
