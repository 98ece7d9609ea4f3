"""Fisher factors of known spectrum, so that the exact inverse and the exact direction need no factorisation.

Φ = Q Λ Qᵀ with λₖ = k^-p in random order and Q a cosine basis with random signs: orthogonal to rounding, no entry preferred.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

DAMPING = 0.3
"""Of the mean eigenvalue, the library's default."""
SIZES = ((128, 256), (384, 384), (384, 1536), (512, 4608), (1024, 1024))
"""(o, i) of real layers: an MLP's, a GPT's attention and MLP, the last convolutions of a ResNet-18, a wide MLP's."""
EXPONENTS = (1, 2)


def generator() -> torch.Generator:
    """Every problem is the same in every run."""
    return torch.Generator().manual_seed(0)


def name_of(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


@lru_cache(maxsize=2)
def orthogonal(n: int) -> Tensor:
    """`[n, n]` in float64: the basis of the discrete cosine transform, rows with random signs, columns in random order."""
    k, source = torch.arange(n, dtype=torch.float64), generator()
    basis = torch.cos((k[:, None] + 0.5) * k[None, :] * (math.pi / n)) * math.sqrt(2 / n)
    basis[:, 0] *= math.sqrt(0.5)
    signs = torch.randint(2, (n, 1), generator=source) * 2 - 1
    return (basis * signs)[:, torch.randperm(n, generator=source)]


@dataclass(frozen=True)
class Factor:
    """Φ `[n, n]` with λₖ = k^-exponent."""

    n: int
    exponent: int

    @cached_property
    def values(self) -> Tensor:
        return torch.arange(1, self.n + 1, dtype=torch.float64) ** -self.exponent

    @cached_property
    def damping(self) -> float:
        """λ, absolute."""
        return DAMPING * float(self.values.mean())

    @property
    def basis(self) -> Tensor:
        return orthogonal(self.n)

    def matrix(self) -> Tensor:
        """Φ + λI in float32."""
        return self._of(self.values + self.damping)

    @cached_property
    def inverse(self) -> Tensor:
        """(Φ + λI)⁻¹, computed in float64 and rounded to float32."""
        return self._of(1 / (self.values + self.damping))

    def _of(self, values: Tensor) -> Tensor:
        return ((self.basis * values) @ self.basis.T).float()

    def gradient(self, o: int, *, power: float) -> tuple[Tensor, Tensor]:
        """∇ = Z Φ^power `[o, n]` in float32 with a Gaussian Z, and ∇ (Φ + λI)⁻¹ in float64.

        Power ½ is a gradient as the layer's inputs make it, power 0 one without any preferred direction.
        """
        z = torch.randn(o, self.n, generator=generator(), dtype=torch.float64) * self.values**power
        return (z @ self.basis.T).float(), (z / (self.values + self.damping)) @ self.basis.T


@lru_cache(maxsize=2)
def factor(n: int, exponent: int) -> Factor:
    """One a size and exponent; the last two are kept."""
    return Factor(n, exponent)


def error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖ (Frobenius), in float64."""
    return float((found.double() - exact).norm() / exact.norm())
