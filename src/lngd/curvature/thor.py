"""THOR's Fisher block: K-FAC's factors cut into blocks along their dimension, refreshed only when their trace has moved."""

from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lngd.curvature.kfac import KFACBlock
from lngd.linalg import Damping, as_damping, inverse, kronecker, shifted
from lngd.types import Activations, Dense, Flag, GradientMatrix, Gradients, Scalar

REFRESH_ABOVE, SETTLE_BELOW = 0.01, 0.001
"""ω₁ and ω₂, relative changes of the trace."""

Pieces = Float[Tensor, "*group k b b"]
"""Diagonal blocks; the last one is padded with zeros."""


class THORBlock(KFACBlock):
    """F ≈ diag(A₁, A₂, …) ⊗ diag(B₁, B₂, …), A and B as in K-FAC (Chen et al. 2021).

    The trace rule, per layer: with Δ = |tr(F + λI) − tr(F + λI)_last| / tr(F + λI)_last at a refresh, the inverses are renewed if
    Δ > ω₁, kept if Δ ≤ ω₁, and kept for good from the first Δ < ω₂ on.

    Args:
        split: the largest block of a factor.
    """

    inverses = ("A_inverse", "B_inverse", "trace", "settled", "seen")

    A: Pieces
    B: Pieces
    A_inverse: Pieces
    B_inverse: Pieces
    trace: Scalar
    settled: Flag
    seen: Tensor
    """`updates` at the last refresh: a trace that nobody has measured again says nothing."""

    def __init__(self, split: int = 128) -> None:
        super().__init__(split)

    def dims(self, inputs: int, outputs: int) -> tuple[int, ...]:
        return min(inputs, self.max_dim), min(outputs, self.max_dim)

    def numbers(self, inputs: int, outputs: int) -> int:
        sides = zip((inputs, outputs), self.dims(inputs, outputs), strict=True)
        return 2 * sum(ceil(dim / block) * block**2 for dim, block in sides) + 3

    def measure(self, a: Activations, g: Gradients) -> tuple[Tensor, ...]:
        """K-FAC's moments, within blocks only."""
        self.shape = g.shape[-1], a.shape[-1]
        return super().measure(a, g)

    def refresh(self, damping: Damping) -> None:
        """Renews the inverses if the trace rule asks for it."""
        trace = self._trace(damping)
        if not self.ready:
            self._invert(damping, trace, settled=torch.zeros_like(trace, dtype=torch.bool))
        elif self.seen != self.updates:
            change = (trace - self.trace).abs() / self.trace
            self.settled = self.settled | (change < SETTLE_BELOW)
            if change > REFRESH_ABOVE and not self.settled:
                self._invert(damping, trace, self.settled)
        self.seen = trace.new_full((), self.updates)

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """B̂⁻¹ ∇ Â⁻¹, block by block."""
        left = _times(self.B_inverse, gradient)
        return _times(self.A_inverse, left.mT).mT

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """(B + √λ/π I) ⊗ (A + π√λ I) of the block-diagonal factors."""
        A, B = self._damped(as_damping(damping))
        o, i = self.shape
        return kronecker(_assembled(B)[..., :o, :o], _assembled(A)[..., :i, :i])

    def _moments(self, rows: Float[Tensor, "*group n d"]) -> Pieces:
        pieces = _cut(rows, min(self.max_dim, rows.shape[-1])).movedim(-2, -3)  # [k, n, b]
        return pieces.mT @ pieces

    def _means(self) -> tuple[Tensor, Tensor]:
        """Mean eigenvalues of A and B."""
        o, i = self.shape
        A, B = (x.diagonal(dim1=-2, dim2=-1).sum((-2, -1)) for x in (self.A, self.B))
        return A / i, B / o

    def _damped(self, damping: Damping) -> tuple[Tensor, Tensor]:
        shift_A, shift_B = damping.of_kronecker(*self._means())
        o, i = self.shape
        return _shifted(self.A, shift_A, i), _shifted(self.B, shift_B, o)

    def _trace(self, damping: Damping) -> Scalar:
        """tr(F + λI) / dim F, over all groups."""
        A, B = self._means()
        return (A * B + damping.of_mean(A * B)).sum()

    def _invert(self, damping: Damping, trace: Scalar, settled: Flag) -> None:
        A, B = self._damped(damping)
        A, B = inverse(A), inverse(B)
        self.A_inverse, self.B_inverse, self.trace, self.settled = A, B, trace, settled


def _shifted(pieces: Pieces, shift: Float[Tensor, "*group"], dim: int) -> Pieces:
    """pieces + shift · I, and I where the last one is padded: what is no input must not make it singular."""
    padding = 1 - _cut(pieces.new_ones(1, dim), pieces.shape[-1])[0]
    return shifted(pieces, shift.unsqueeze(-1).expand(pieces.shape[:-2])) + torch.diag_embed(padding)


def _cut(x: Float[Tensor, "*group n d"], block: int) -> Float[Tensor, "*group n k b"]:
    """The last dimension in blocks, padded with zeros."""
    count = ceil(x.shape[-1] / block)
    return F.pad(x, (0, count * block - x.shape[-1])).unflatten(-1, (count, block))


def _times(pieces: Pieces, matrix: Float[Tensor, "*group d c"]) -> Float[Tensor, "*group d c"]:
    """The block-diagonal matrix times a matrix."""
    rows = _cut(matrix.mT, pieces.shape[-1]).movedim(-3, -1)  # [k, b, c]
    return (pieces @ rows).flatten(-3, -2)[..., : matrix.shape[-2], :]


def _assembled(pieces: Pieces) -> Float[Tensor, "*group d d"]:
    count, block = pieces.shape[-3:-1]
    whole = pieces.new_zeros(*pieces.shape[:-3], count, block, count, block)
    for k in range(count):
        whole[..., k, :, k, :] = pieces[..., k, :, :]
    return whole.flatten(-4, -3).flatten(-2)
