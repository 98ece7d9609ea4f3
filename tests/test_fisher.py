"""Noise and the scale of per-sample gradients."""

import pytest
import torch

from lngd import FisherType
from lngd.fisher import curvature_along, draw


def noise(kind: str, seed: int = 0, n: int = 100_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return draw(kind, generator, shape=torch.Size((n,)), dtype=torch.float64, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_noise_has_mean_zero_and_variance_one(kind):
    epsilon = noise(kind)
    assert abs(epsilon.mean().item()) < 0.02
    assert abs(epsilon.square().mean().item() - 1) < 0.02


def test_rademacher_noise_has_squares_of_exactly_one():
    assert torch.equal(noise("rademacher").square(), torch.ones(100_000, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_noise_comes_from_the_generator_alone(kind):
    before = torch.get_rng_state()
    assert torch.equal(noise(kind, 3), noise(kind, 3))
    assert not torch.equal(noise(kind, 3), noise(kind, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_curvature_is_the_mean_square_slope():
    slopes = torch.tensor([1.0, -2.0, 3.0])
    assert curvature_along(slopes, 7, "batch").item() == pytest.approx(14 / 3)


def test_a_mean_over_tokens_scales_the_curvature_by_the_positions():
    """One token's Fisher matrix, for independent tokens: E[slope²] of tokens, from sums over a sequence of the mean loss."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(20_000, 8, generator=generator)
    assert curvature_along(tokens.mean(1), 8, "token").item() == pytest.approx(tokens.square().mean().item(), rel=0.05)


def test_layerwise_is_the_fisher_type_of_the_method():
    assert FisherType("layerwise") is FisherType.LAYERWISE
