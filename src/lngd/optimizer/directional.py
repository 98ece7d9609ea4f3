"""The curvature of the loss along a layer's direction, from a few samples."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from lngd.capture import RateSample
from lngd.fisher import MeanOver, curvature_along
from lngd.layers import Layer
from lngd.types import GradientMatrix, Scalar


def directional_curvature(
    layer: Layer, direction: GradientMatrix, samples: list[RateSample], mean_over: MeanOver
) -> Scalar | None:
    """dᵀFd from ⟨d, ∇⁽ⁿ⟩ = Σₛ gₛᵀ d aₛ, without any per-sample weight gradient (LNGD eq. 13)."""
    if not samples:
        return None
    slopes: dict[tuple[int, int], Tensor] = {}
    for key, group in by_forward(samples):
        slopes[key] = torch.stack([_slopes(layer, direction, s) for s in group]).sum(0)
    batch = sum(max(n for f, n in slopes if f == forward) for forward in {f for f, _ in slopes})  # micro-batches add up
    positions = samples[0].g[0].numel() // (layer.outputs * layer.groups)
    return curvature_along(torch.cat([*slopes.values()]), positions, mean_over, batch=batch)


def by_forward(samples: list[RateSample]) -> Iterable[tuple[tuple[int, int], list[RateSample]]]:
    """Calls on the same samples together, keyed by forward and batch size."""
    found: defaultdict[tuple[int, int], list[RateSample]] = defaultdict(list)
    for sample in samples:
        found[sample.forward_id, sample.batch].append(sample)
    return found.items()


def _slopes(layer: Layer, direction: GradientMatrix, sample: RateSample) -> Tensor:
    return (layer.output(sample.x, direction) * sample.g.to(layer.dtype)).flatten(1).sum(1)
