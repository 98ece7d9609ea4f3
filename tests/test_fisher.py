"""Noise and the scale of per-sample gradients."""

import pytest
import torch

from lngd import FisherType
from lngd.sampling import curvature_along, draw


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


def test_curvature_is_the_mean_square_slope_of_the_samples_own_gradients():
    """Of a mean over 4 samples, the graph holds a quarter of each sample's gradient; two of them were kept."""
    own = torch.tensor([1.0, -2.0])
    assert curvature_along((own / 4).square(), 7, "batch", batch=4).item() == pytest.approx(2.5)


def test_a_sum_over_samples_has_their_number_times_the_curvature_of_the_mean():
    own = torch.tensor([1.0, -2.0, 3.0])
    assert curvature_along(own.square(), 7, "none", batch=3).item() == pytest.approx(14)


def test_with_a_mean_over_tokens_the_curvature_is_the_mean_square_slope_of_the_tokens_own_gradients():
    """Of a mean over 5 · 8 tokens the graph holds a fortieth of each token's gradient; tokens of a sequence may well agree."""
    own = torch.randn(5, 8, dtype=torch.float64) + torch.randn(5, 1, dtype=torch.float64)
    squares = torch.stack([sum((slope / 40) ** 2 for slope in sequence) for sequence in own])
    expected = sum(slope**2 for slope in own.flatten()) / 40
    torch.testing.assert_close(curvature_along(squares, 8, "token", batch=5), expected)


def test_layerwise_is_the_fisher_type_of_the_method():
    assert FisherType("layerwise") is FisherType.LAYERWISE
