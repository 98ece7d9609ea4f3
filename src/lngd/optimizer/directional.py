"""The curvature of the loss along a layer's direction, from a few samples."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.capture import RateSample
from lngd.layers import Layer
from lngd.sampling import MeanOver, curvature_along
from lngd.types import GradientMatrix, Scalar


def directional_curvature(
    layer: Layer, direction: GradientMatrix, samples: list[RateSample], mean_over: MeanOver
) -> Scalar | None:
    """dᵀFd from ⟨d, ∇⁽ⁿ⟩ = Σₛ gₛᵀ d aₛ, without any per-sample weight gradient (LNGD eq. 13).

    With a mean over tokens F is that of one token, so tokens are the samples. A sequence's own ⟨d, ∇⟩² has the products of all
    pairs of its tokens, which made it 40 to 100 times the Gauss–Newton curvature on a GPT, and the steps that much too short.
    """
    if not samples:
        return None
    squares: dict[tuple[int, int], Tensor] = {}
    for key, group in by_forward(samples):
        slopes = [_slopes(layer, direction, sample) for sample in group]
        squares[key] = _of_tokens(slopes) if mean_over == "token" else _of_samples(slopes)
    batch = sum(max(n for f, n in squares if f == forward) for forward in {f for f, _ in squares})  # micro-batches add up
    positions = samples[0].g[0].numel() // (layer.outputs * layer.groups)
    return curvature_along(torch.cat([*squares.values()]), positions, mean_over, batch=batch)


def by_forward(samples: list[RateSample]) -> Iterable[tuple[tuple[int, int], list[RateSample]]]:
    """Calls on the same samples together, keyed by forward and batch size."""
    found: defaultdict[tuple[int, int], list[RateSample]] = defaultdict(list)
    for sample in samples:
        found[sample.forward_id, sample.batch].append(sample)
    return found.items()


def _slopes(layer: Layer, direction: GradientMatrix, sample: RateSample) -> Float[Tensor, "n s"]:
    """gₛᵀ d aₛ of each position."""
    products = layer.gradients(layer.output(sample.x, direction) * sample.g).sum(-1)
    return products.sum(0) if products.dim() > 2 else products


def _of_samples(calls: list[Float[Tensor, "n _"]]) -> Float[Tensor, " n"]:
    """⟨d, ∇⁽ⁿ⟩², the positions of all calls together."""
    return torch.stack([slopes.sum(1) for slopes in calls]).sum(0).square()


def _of_tokens(calls: list[Float[Tensor, "n _"]]) -> Float[Tensor, " n"]:
    """Σₜ ⟨d, ∇⁽ᵗ⟩²: each token is a sample, and what two of them have in common is not counted."""
    return torch.stack([slopes.square().sum(1) for slopes in calls]).sum(0)
