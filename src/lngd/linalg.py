"""Damping and inverses of Fisher factors: the only file that factorises a matrix."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.types import Flag, Scalar


class NotPositiveDefiniteError(ArithmeticError):
    """A Fisher factor has no Cholesky factor, even damped."""


@dataclass(frozen=True)
class Damping:
    """λ = clip(relative · tr(F)/dim F, ν₁, ν₂): damping in units of the factor's mean eigenvalue (LNGD sec. 3.3).

    The paper fixes `relative` at 1 and ν₂ at 1e-2. That upper bound binds for any factor of ordinary size and lets directions
    of low variance explode, so ours is infinite by default.
    """

    relative: float
    bounds: tuple[float, float] = (0.0, math.inf)

    def of_matrix(self, factor: Float[Tensor, "*group i i"]) -> Float[Tensor, "*group"]:
        """λ of a dense factor."""
        return self._clip(factor.diagonal(dim1=-2, dim2=-1).mean(-1))

    def of_diagonal(self, factor: Float[Tensor, "*group o"]) -> Float[Tensor, "*group"]:
        """λ of a factor stored as its diagonal."""
        return self._clip(factor.mean(-1))

    def _clip(self, mean_eigenvalue: Float[Tensor, "*group"]) -> Float[Tensor, "*group"]:
        return (self.relative * mean_eigenvalue).clamp(*self.bounds)


def as_damping(damping: Damping | float) -> Damping:
    """A plain number as damping without bounds."""
    return damping if isinstance(damping, Damping) else Damping(damping)


def damped_matrix(factor: Float[Tensor, "*group i i"], damping: Damping) -> Float[Tensor, "*group i i"]:
    """Φ + λI."""
    damped = factor.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(damping.of_matrix(factor).unsqueeze(-1))
    return damped


def damped_diagonal(factor: Float[Tensor, "*group o"], damping: Damping) -> Float[Tensor, "*group o"]:
    """Ψ + λ, as a diagonal."""
    return factor + damping.of_diagonal(factor).unsqueeze(-1)


def inverse(matrix: Float[Tensor, "*group i i"]) -> Float[Tensor, "*group i i"]:
    """The inverse of a symmetric positive definite matrix through its Cholesky factor.

    A matrix that rounding has made indefinite in its own precision is tried once more in float64.

    Raises:
        NotPositiveDefiniteError: it is not positive definite in float64 either.
    """
    for candidate in (matrix, matrix.double()):
        factor, failed = torch.linalg.cholesky_ex(candidate)
        if not failed.any():
            return torch.cholesky_inverse(factor).to(matrix.dtype)
    raise NotPositiveDefiniteError(f"a {matrix.shape[-1]}×{matrix.shape[-1]} matrix is not positive definite: raise the damping")


def all_finite(tensors: list[Tensor]) -> Flag:
    """Whether no tensor holds a NaN or an infinity; one pass, and the answer stays on the device.

    The largest magnitude is finite exactly if every entry is, and unlike a sum of squares it cannot overflow.
    """
    largest = torch._foreach_norm(tensors, ord=math.inf)  # no public counterpart; torch's own clip_grad_norm_ uses it
    device = largest[0].device
    return torch.stack([value.isfinite().to(device) for value in largest]).all()


def inner(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Scalar:
    """⟨x, y⟩ over all entries."""
    return torch.dot(x.reshape(-1), y.reshape(-1))
