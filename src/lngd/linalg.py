"""Damping and inverses of Fisher factors: the only file that factorises a matrix.

A factor over the inputs is dense, `[*group, i, i]`, or, for one-hot inputs, which never come in groups, its diagonal `[i]`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.types import Flag, InputFactor, OneHot, Rows, Scalar

LinAlgError: type[RuntimeError] = vars(torch.linalg)["LinAlgError"]  # documented, but its module lists no exports


SMALL, PANELS = 256, 4
"""A matrix of second moments is computed in so many panels, if it is not small."""
LARGEST_PI = 1e10
"""Where a factor is zero, because its layer is dead, π would be infinite."""


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

    def of_matrix(self, factor: InputFactor) -> Float[Tensor, "*group"]:
        """λ of a factor, dense or of one-hot inputs."""
        return self.of_mean(mean_eigenvalue(factor))

    def of_diagonal(self, factor: Float[Tensor, "*group o"]) -> Float[Tensor, "*group"]:
        """λ of a factor stored as its diagonal."""
        return self.of_mean(factor.mean(-1))

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


def is_diagonal(factor: InputFactor) -> bool:
    """Whether a factor is stored as its diagonal."""
    return factor.dim() == 1


def diagonal_of(factor: InputFactor) -> Float[Tensor, "*group i"]:
    """Its diagonal, however it is stored."""
    return factor if is_diagonal(factor) else factor.diagonal(dim1=-2, dim2=-1)


def mean_eigenvalue(factor: InputFactor) -> Float[Tensor, "*group"]:
    """tr(F)/dim F."""
    return diagonal_of(factor).mean(-1)


def times(matrix: Float[Tensor, "*group o i"], factor: InputFactor) -> Float[Tensor, "*group o i"]:
    """matrix · F."""
    return matrix * factor if is_diagonal(factor) else matrix @ factor


def transposed(factor: InputFactor) -> InputFactor:
    """Fᵀ."""
    return factor if is_diagonal(factor) else factor.mT


def shifted(factor: InputFactor, shift: Float[Tensor, "*group"]) -> InputFactor:
    """F + shift · I."""
    if is_diagonal(factor):
        return factor + shift
    moved = factor.clone()
    moved.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    return moved


def damped_matrix(factor: InputFactor, damping: Damping) -> InputFactor:
    """Φ + λI."""
    return shifted(factor, damping.of_matrix(factor))


def damped_diagonal(factor: Float[Tensor, "*group o"], damping: Damping) -> Float[Tensor, "*group o"]:
    """Ψ + λ, as a diagonal."""
    return factor + damping.of_diagonal(factor).unsqueeze(-1)


def inverse(matrix: InputFactor) -> InputFactor:
    """The inverse of a symmetric positive definite matrix through its Cholesky factor; that of a diagonal entry by entry.

    A matrix that rounding has made indefinite in its own precision is tried once more in float64.

    Raises:
        NotPositiveDefiniteError: it is not positive definite in float64 either.
    """
    if is_diagonal(matrix):
        return inverse_diagonal(matrix)
    for dtype in (matrix.dtype, torch.float64):
        candidate = matrix.to(dtype)
        factor, failed = torch.linalg.cholesky_ex(candidate)
        if failed.any():
            continue
        inverted = torch.cholesky_inverse(factor).to(matrix.dtype).contiguous()  # distributed checkpoints keep no strides
        if inverted.isfinite().all():
            return inverted
    raise NotPositiveDefiniteError(f"a {matrix.shape[-1]}×{matrix.shape[-1]} matrix is not positive definite: raise the damping")


def inverse_diagonal(diagonal: Float[Tensor, "*group o"]) -> Float[Tensor, "*group o"]:
    """The inverse of a diagonal matrix.

    Raises:
        NotPositiveDefiniteError: an entry is zero, or so small that its inverse is infinite.
    """
    inverted = diagonal.reciprocal()
    if not (inverted.isfinite() & (inverted > 0)).all():
        raise NotPositiveDefiniteError("a diagonal factor has an entry of zero: raise the damping")
    return inverted


def eigenbasis(matrix: InputFactor) -> tuple[Float[Tensor, "*group i"], InputFactor]:
    """Eigenvalues, those within rounding error of zero set to zero, and eigenvectors (columns) of a semi-definite matrix.

    Those of a diagonal are its entries, in their order, and the identity, as a diagonal too.

    Raises:
        NotPositiveDefiniteError: the decomposition does not converge, in float64 neither.
    """
    if is_diagonal(matrix):
        return matrix, torch.ones_like(matrix)
    for dtype in (matrix.dtype, torch.float64):
        try:
            values, vectors = torch.linalg.eigh(matrix.to(dtype))
        except LinAlgError:
            continue
        if not (values.isfinite().all() and vectors.isfinite().all()):  # LAPACK gives NaN for some factors of rank one
            continue
        noise = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * values[..., -1:]
        return torch.where(values > noise, values, 0.0).to(matrix.dtype), vectors.to(matrix.dtype).contiguous()
    raise NotPositiveDefiniteError(f"a {matrix.shape[-1]}×{matrix.shape[-1]} matrix has no eigendecomposition: raise the damping")


def squared_norms(rows: Rows) -> Float[Tensor, "*group n"]:
    """‖x‖² of each row x."""
    if isinstance(rows, OneHot):
        return (rows.places < rows.size).to(rows.dtype)
    return rows.norm(dim=-1).square()  # one pass over what may be the largest tensor, no copy of it


def sum_by_input(rows: OneHot, values: Float[Tensor, "n ..."]) -> Float[Tensor, "i ..."]:
    """For each input the sum of the values of the rows that are it."""
    sums = values.new_zeros(rows.size + 1, *values.shape[1:])  # the last for rows that are zero
    return sums.index_add_(0, rows.places, values)[:-1]


def second_moments(rows: Rows, weights: Float[Tensor, "*group n"] | None = None) -> InputFactor:
    """Σ w x xᵀ over rows x; without weights Σ x xᵀ. Of one-hot rows the diagonal, which is all of it.

    Only panels on the diagonal and right of it are multiplied: with four of them 10/16 of the work, and never more than a quarter
    of the rows copied for their weights.
    """
    if isinstance(rows, OneHot):
        return sum_by_input(rows, squared_norms(rows) if weights is None else weights)
    i = rows.shape[-1]
    width = i if i < SMALL else -(-i // PANELS)
    moments = rows.new_empty(*rows.shape[:-2], i, i)
    weighted = None if weights is None else rows.new_empty(*rows.shape[:-1], width)  # one piece of memory for all panels
    for start in range(0, i, width):
        here = slice(start, start + width)
        left = rows[..., here]
        if weighted is not None and weights is not None:
            left = torch.mul(left, weights.unsqueeze(-1), out=weighted[..., : left.shape[-1]])
        panel = left.mT @ rows[..., start:]
        moments[..., here, start:] = panel
        moments[..., start:, here] = panel.mT
    return moments


def kronecker(left: Float[Tensor, "*group o o"], right: InputFactor) -> Float[Tensor, "*group oi oi"]:
    """left ⊗ right, the matrix that takes a row-major G to left G rightᵀ; one product a group."""
    if is_diagonal(right):
        right = right.diag()
    product = left[..., :, None, :, None] * right[..., None, :, None, :]  # [o, i, o, i]
    return product.flatten(-4, -3).flatten(-2)


def all_finite(tensors: list[Tensor]) -> Flag:
    """Whether no tensor holds a NaN or an infinity; one pass, and the answer stays on the device.

    The largest magnitude is finite exactly if every entry is, and unlike a sum of squares it cannot overflow.
    """
    largest = largest_magnitude(tensors)
    device = largest[0].device
    return torch.stack([value.isfinite().to(device) for value in largest]).all()


def largest_magnitude(tensors: list[Tensor]) -> list[Scalar]:
    """max |x| of each tensor, NaN if it holds one."""
    filled = [t if t.numel() else t.new_zeros(1) for t in tensors]
    return list(torch._foreach_norm(filled, ord=math.inf))  # no public counterpart; torch's own clip_grad_norm_ uses it


def inner(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Scalar:
    """⟨x, y⟩ over all entries."""
    return torch.dot(x.reshape(-1), y.reshape(-1))
