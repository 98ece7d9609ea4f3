"""Moments of per-sample gradient matrices Gₙ = Σₛ gₛ aₛᵀ, a few samples at a time: `[n, o, i]` as a whole may not fit."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lngd.linalg import squared_norms, sum_by_input
from lngd.types import Activations, GradientMatrix, Gradients, OneHot, OutputFactor

CHUNK = 2**23
"""Numbers in an intermediate result: 32 MiB in float32."""


def squared_gradients(a: Activations, g: Gradients) -> GradientMatrix:
    """E[Gₙ ∘ Gₙ], `[o, i]`, cross terms between positions included."""
    n, positions = a.shape[-3:-1]
    if isinstance(a, OneHot):
        inputs, columns = _merged(a, g)
        return sum_by_input(inputs, columns.square()).mT / n
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
    if isinstance(a, OneHot):
        columns = _merged(a, g)[1]
        return columns.mT @ columns / n
    if s**2 * (i + o) + s * o**2 < s * o * i + o**2 * i:
        chunks = _chunks(a, g, s**2 + s * o)
        return _total(g.flatten(-3, -2).mT @ ((a @ a.mT) @ g).flatten(-3, -2) for a, g in chunks) / n
    chunks = _chunks(a, g, o * i)
    return _total(_outer(g.mT @ a) for a, g in chunks) / n


def _outer(G: Tensor) -> Tensor:
    """Σₙ Gₙ Gₙᵀ as one product."""
    rows = G.transpose(-3, -2).flatten(-2)  # [o, n·i]
    return rows @ rows.mT


def _merged(a: OneHot, g: Gradients) -> tuple[OneHot, Tensor]:
    """All columns of all Gₙ, `[n·s, o]`, and their inputs: gradients at equal inputs of a sample add up, the rest is zero.

    Sorted and not looked up, so that no size depends on the data and nothing waits for the device.
    """
    places, order = a.places.sort(-1)
    rank = (places.diff(dim=-1, prepend=places[..., :1]) != 0).cumsum(-1)  # among the sample's different inputs
    inputs = OneHot(torch.full_like(places, a.size).scatter_(-1, rank, places), a.size, a.dtype).flatten(-3, -2)
    column = torch.empty_like(rank).scatter_(-1, order, rank).unsqueeze(-1).expand_as(g)
    columns = torch.zeros_like(g).scatter_add_(-2, column, g).flatten(-3, -2)
    return inputs, columns * squared_norms(inputs).unsqueeze(-1)


def _chunks(a: Tensor, g: Gradients, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples in portions whose results hold about CHUNK numbers, at `numbers` a sample and group."""
    groups = a[..., 0, 0, 0].numel()
    size = max(1, CHUNK // (numbers * groups))
    return zip(a.split(size, -3), g.split(size, -3), strict=True)


def _total(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
