"""Moments of per-sample gradient matrices Gₙ = Σₛ gₛ aₛᵀ, a few samples at a time: `[n, o, i]` as a whole may not fit."""

from collections.abc import Iterator

from torch import Tensor

from lngd.types import Activations, GradientMatrix, Gradients, OutputFactor

CHUNK = 2**23
"""Numbers in an intermediate result: 32 MiB in float32."""


def squared_gradients(a: Activations, g: Gradients) -> GradientMatrix:
    """E[Gₙ ∘ Gₙ], `[o, i]`, cross terms between positions included."""
    n, positions = a.shape[-3:-1]
    if positions == 1:
        return g.square().flatten(-3, -2).mT @ a.square().flatten(-3, -2) / n
    chunks = _chunks(a, g, a.shape[-1] * g.shape[-1])
    return _total((g.mT @ a).square().sum(-3) for a, g in chunks) / n


def output_moments(a: Activations, g: Gradients) -> OutputFactor:
    """E[Gₙ Gₙᵀ], `[o, o]`.

    Gₙ Gₙᵀ = gᵀ (a aᵀ) g through the positions' Gram matrix `[s, s]` where that costs less than Gₙ itself, as it does for layers
    with few positions.
    """
    n, s, i = a.shape[-3:]
    o = g.shape[-1]
    if s**2 * (i + o) + s * o**2 < s * o * i + o**2 * i:
        chunks = _chunks(a, g, s**2 + s * o)
        return _total(g.flatten(-3, -2).mT @ ((a @ a.mT) @ g).flatten(-3, -2) for a, g in chunks) / n
    chunks = _chunks(a, g, o * i)
    return _total(_outer(g.mT @ a) for a, g in chunks) / n


def _outer(G: Tensor) -> Tensor:
    """Σₙ Gₙ Gₙᵀ as one product."""
    rows = G.transpose(-3, -2).flatten(-2)  # [o, n·i]
    return rows @ rows.mT


def _chunks(a: Activations, g: Gradients, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples in portions whose results hold about CHUNK numbers, at `numbers` a sample and group."""
    groups = a[..., 0, 0, 0].numel()
    size = max(1, CHUNK // (numbers * groups))
    return zip(a.split(size, -3), g.split(size, -3), strict=True)


def _total(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
