"""THOR's Fisher block: K-FAC's factors cut into blocks along their dimension, refreshed only when their trace has moved."""

from typing import ClassVar

import torch
from torch import Tensor

from lngd.curvature.block import Shape
from lngd.curvature.kfac import KFACBlock
from lngd.linalg import Damping
from lngd.types import Flag, Scalar

REFRESH_ABOVE, SETTLE_BELOW = 0.01, 0.001
"""ω₁ and ω₂, relative changes of the trace."""


class THORBlock(KFACBlock):
    """F ≈ diag(A₁, A₂, …) ⊗ diag(B₁, B₂, …), A and B as in K-FAC (Chen et al. 2021).

    The trace rule, per layer: with Δ = |tr(F + λI) − tr(F + λI)_last| / tr(F + λI)_last at a refresh, the inverses are renewed if
    Δ > ω₁, kept if Δ ≤ ω₁, and kept for good from the first Δ < ω₂ on.

    Args:
        split: the largest block of a factor.
    """

    inverses = ("A_inverse", "B_inverse", "trace", "settled", "seen")
    dtypes: ClassVar[dict[str, torch.dtype]] = {"settled": torch.bool}

    trace: Scalar
    settled: Flag
    seen: Tensor
    """`updates` at the last refresh: a trace that nobody has measured again says nothing."""

    def __init__(self, split: int = 128) -> None:
        super().__init__(split)

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        return {**super().shapes(inputs, outputs, one_hot=one_hot), "trace": (), "settled": (), "seen": ()}

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

    def _trace(self, damping: Damping) -> Scalar:
        """tr(F + λI) / dim F, over all groups."""
        A, B = self._means()
        return (A * B + damping.of_mean(A * B)).sum()

    def _invert(self, damping: Damping, trace: Scalar, settled: Flag) -> None:
        super().refresh(damping)
        self.trace, self.settled = trace, settled
