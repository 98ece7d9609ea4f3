"""Inverses through Cholesky factors, and eigenbases."""

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.linalg.factor import is_diagonal
from lngd.types import InputFactor

LinAlgError: type[RuntimeError] = vars(torch.linalg)["LinAlgError"]  # documented, but its module lists no exports


class NotPositiveDefiniteError(ArithmeticError):
    """A Fisher factor has no Cholesky factor, even damped."""


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


def root(matrix: InputFactor) -> InputFactor:
    """L of M = L Lᵀ, the Cholesky factor of a positive definite matrix; of a diagonal its square root."""
    return matrix.sqrt() if is_diagonal(matrix) else torch.linalg.cholesky_ex(matrix)[0]


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
