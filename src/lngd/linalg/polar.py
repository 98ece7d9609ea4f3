"""The spectral step's inverse square roots: by matrix products only (Newton–Schulz), or from two Cholesky factors."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lngd.linalg.factor import LANES
from lngd.types import GradientMatrix

QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
"""a, b, c of σ ← aσ + bσ³ + cσ⁵, one row an iteration: singular values in [0.003, 1] end in [0.8, 1.2], which is the best that
four can do (`lngd_bench.studies.kernels`); Muon's five of one kind end in [0.7, 1.2]."""


def orthogonalised(natural: GradientMatrix, average: GradientMatrix) -> GradientMatrix:
    """(P Mᵀ)^(−½) P with P = F̂⁻¹M: the natural gradient with all its singular values, measured by F̂, set to about one.

    For F̂ = A ⊗ B let Ĝ = B^(−½) M A^(−½) be the whitened gradient. Its polar factor (ĜĜᵀ)^(−½) Ĝ, carried back to the
    weights, is B^(−½) (ĜĜᵀ)^(−½) Ĝ A^(−½); and since P Mᵀ = B^(−½) ĜĜᵀ B^½, this is (P Mᵀ)^(−½) P. No root of a factor is needed.
    With F̂ = I it is Muon's step. Where there are more outputs than inputs the same is computed as P (Mᵀ P)^(−½).

    Args:
        natural: P, `[*group, o, i]`.
        average: M.
    """
    o, i = natural.shape[-2:]
    times = torch.mm if natural.dim() == 2 else torch.bmm
    if o <= i:
        return times(inverse_root(times(natural, average.mT)), natural)
    return times(natural, inverse_root(times(average.mT, natural)))


def inverse_root(matrix: Float[Tensor, "*group k k"]) -> Float[Tensor, "*group k k"]:
    """Roughly N^(−½), as a polynomial of N, whose eigenvalues are ≥ 0 though N need not be symmetric.

    Newton–Schulz on X = N^½ formally: X ← (a + bN + cN²) X multiplies the root Q by p(N) and N by p(N)². N starts at
    N / (tr N⁴)^¼, whose eigenvalues are at most one, and far closer to it than with tr N: N² is there anyway. Zero stays zero.
    The largest entry is divided out first: squares of what remains stay in range.
    """
    times, add_times = (torch.mm, torch.addmm) if matrix.dim() == 2 else (torch.bmm, torch.baddbmm)
    tiny = torch.finfo(matrix.dtype).tiny
    largest = matrix.abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
    scaled = matrix / largest
    square = times(scaled, scaled)
    scale = (square * square.mT).sum((-2, -1), keepdim=True).clamp(min=tiny).sqrt().sqrt()
    (a, b, c), *others = QUINTICS
    rest = scaled / scale
    factor = torch.add(b * rest, square.div_(scale).div_(scale), alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    root = factor
    for a, b, c in others:
        rest = times(factor, times(factor, rest))
        factor = add_times(rest, rest, rest, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        root = times(factor, root)
    return root / (scale.sqrt() * largest.sqrt())


POLES = (0.0092188, 1.8961e-05), (0.18528, 0.0091861)
CONSTANT = 0.9619
"""w, s of each term and c of 1/σ ≈ c + Σ w / (σ² + s), Zolotarev's best such function on [0.002, 1]: σ ends in [0.84, 1.16]."""

COLLIDING = 512
"""Rows of a multiple of so many numbers share lines of the cache: LAPACK takes a quarter longer than with LANES more."""


def inverse_root_of_symmetric(matrix: Float[Tensor, "*group k k"]) -> Float[Tensor, "*group k k"]:
    """Roughly S^(−½) of a semi-definite S, as c + Σ w (S + s)⁻¹: on a CPU a fifth of the time of the products above.

    S starts at S / √tr(S²). Zero stays zero. The largest entry is divided out first: squares of what remains stay in range.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    largest = matrix.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=tiny)[..., None, None]
    k = matrix.shape[-1]
    wider = LANES if k % COLLIDING == 0 else 0
    rest = F.pad(matrix, (0, wider, 0, wider)).div_(largest) if wider else matrix / largest
    scale = torch.linalg.vector_norm(rest, dim=(-2, -1), keepdim=True).clamp(min=tiny**0.5)
    rest.div_(scale)
    root, work, factor = torch.zeros_like(rest), torch.empty_like(rest), torch.empty_like(rest)
    root.diagonal(dim1=-2, dim2=-1).add_(CONSTANT)
    failed = torch.empty(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)
    for weight, shift in POLES:  # LAPACK's rows are columns: transposed it writes to where it is read
        work.copy_(rest).diagonal(dim1=-2, dim2=-1).add_(shift)
        torch.linalg.cholesky_ex(work.mT, out=(factor.mT, failed))
        torch.cholesky_inverse(factor.mT, out=work.mT)
        root.add_(work, alpha=weight)
    return root.div_(scale.sqrt() * largest.sqrt())[..., :k, :k]
