"""THOR's Fisher block: K-FAC's factors cut into blocks along their dimension, refreshed only when their trace has moved."""

from math import ceil
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lngd.curvature.block import Shape
from lngd.curvature.kfac import KFACBlock
from lngd.linalg import Damping, as_damping, inverse, is_diagonal, kronecker, shifted
from lngd.types import Activations, Dense, Flag, GradientMatrix, Gradients, OneHot, Rows, Scalar

REFRESH_ABOVE, SETTLE_BELOW = 0.01, 0.001
"""ω₁ and ω₂, relative changes of the trace."""

Pieces = Float[Tensor, "*group k b b"]
"""Diagonal blocks; the last one is padded with zeros."""
InputPieces: TypeAlias = Pieces | Float[Tensor, " i"]
"""Those of a factor over the inputs; for one-hot inputs its diagonal, which nothing cuts."""


class THORBlock(KFACBlock):
    """F ≈ diag(A₁, A₂, …) ⊗ diag(B₁, B₂, …), A and B as in K-FAC (Chen et al. 2021).

    The trace rule, per layer: with Δ = |tr(F + λI) − tr(F + λI)_last| / tr(F + λI)_last at a refresh, the inverses are renewed if
    Δ > ω₁, kept if Δ ≤ ω₁, and kept for good from the first Δ < ω₂ on.

    Args:
        split: the largest block of a factor.
    """

    inverses = ("A_inverse", "B_inverse", "trace", "settled", "seen")

    A: InputPieces
    B: Pieces
    A_inverse: InputPieces
    B_inverse: Pieces
    trace: Scalar
    settled: Flag
    seen: Tensor
    """`updates` at the last refresh: a trace that nobody has measured again says nothing."""

    def __init__(self, split: int = 128) -> None:
        super().__init__(split)

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return tuple(min(dim, self.max_dim) for dim in super().dims(inputs, outputs, one_hot=one_hot))

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        A, B = (inputs,) if one_hot else self._pieces(inputs), self._pieces(outputs)
        return {"A": A, "B": B, "A_inverse": A, "B_inverse": B, "trace": (), "settled": (), "seen": ()}

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

    def _pieces(self, dim: int) -> Shape:
        block = min(dim, self.max_dim)
        return ceil(dim / block), block, block

    def _moments(self, rows: Rows) -> InputPieces:
        if isinstance(rows, OneHot):
            return super()._moments(rows)
        pieces = _cut(rows, min(self.max_dim, rows.shape[-1])).movedim(-2, -3)  # [k, n, b]
        return pieces.mT @ pieces

    def _means(self) -> tuple[Tensor, Tensor]:
        """Mean eigenvalues of A and B."""
        o, i = self.shape
        return _trace_of(self.A) / i, _trace_of(self.B) / o

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


def _trace_of(pieces: InputPieces) -> Float[Tensor, "*group"]:
    return pieces.sum() if is_diagonal(pieces) else pieces.diagonal(dim1=-2, dim2=-1).sum((-2, -1))


def _shifted(pieces: InputPieces, shift: Float[Tensor, "*group"], dim: int) -> InputPieces:
    """pieces + shift · I, and I where the last one is padded: what is no input must not make it singular."""
    if is_diagonal(pieces):
        return shifted(pieces, shift)
    padding = 1 - _cut(pieces.new_ones(1, dim), pieces.shape[-1])[0]
    return shifted(pieces, shift.unsqueeze(-1).expand(pieces.shape[:-2])) + torch.diag_embed(padding)


def _cut(x: Float[Tensor, "*group n d"], block: int) -> Float[Tensor, "*group n k b"]:
    """The last dimension in blocks, padded with zeros."""
    count = ceil(x.shape[-1] / block)
    return F.pad(x, (0, count * block - x.shape[-1])).unflatten(-1, (count, block))


def _times(pieces: InputPieces, matrix: Float[Tensor, "*group d c"]) -> Float[Tensor, "*group d c"]:
    """The block-diagonal matrix times a matrix."""
    if is_diagonal(pieces):
        return pieces.unsqueeze(-1) * matrix
    rows = _cut(matrix.mT, pieces.shape[-1]).movedim(-3, -1)  # [k, b, c]
    return (pieces @ rows).flatten(-3, -2)[..., : matrix.shape[-2], :]


def _assembled(pieces: InputPieces) -> Float[Tensor, "*group d d"]:
    if is_diagonal(pieces):
        return pieces.diag()
    count, block = pieces.shape[-3:-1]
    whole = pieces.new_zeros(*pieces.shape[:-3], count, block, count, block)
    for k in range(count):
        whole[..., k, :, k, :] = pieces[..., k, :, :]
    return whole.flatten(-4, -3).flatten(-2)
