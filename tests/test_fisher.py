"""What `fisher=` takes, noise, and the scale of per-sample gradients."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import config as shape_checks

import lngd
from lngd import Empirical, FisherType, Layerwise, Sampled
from lngd.sampling import as_fisher, curvature_along, draw


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


WAYS = {"layerwise": Layerwise(), "empirical": Empirical(), "sampled": Sampled()}


@pytest.mark.parametrize("name", WAYS)
def test_a_way_of_sampling_is_given_by_its_name_its_type_or_itself(name):
    assert as_fisher(name) == as_fisher(FisherType(name)) == WAYS[name]
    assert as_fisher(WAYS[name]) is WAYS[name]
    assert WAYS[name].type is FisherType(name)


@pytest.mark.parametrize("way", [Layerwise("gaussian"), Sampled("bernoulli"), Sampled("gaussian")])
def test_a_way_of_sampling_keeps_its_settings(way):
    assert as_fisher(way) is way
    assert way not in WAYS.values()


@pytest.mark.parametrize("given", ["LAYERWISE", "fisher", "", None, 1, True, Sampled, Layerwise, ["layerwise"], FisherType])
def test_what_is_no_way_of_sampling_is_an_error_that_lists_what_is_allowed(given):
    allowed = r"'layerwise', 'empirical', 'sampled'.*FisherType.*Layerwise\(.*Empirical\(.*Sampled\("
    with pytest.raises(ValueError, match=allowed):
        as_fisher(given)


@pytest.fixture
def _as_users_run_it() -> Iterator[None]:
    """Without shape checks, which would answer first."""
    before = shape_checks.jaxtyping_disable
    shape_checks.update("jaxtyping_disable", True)
    yield
    shape_checks.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("_as_users_run_it")
def test_a_setting_out_of_its_range_is_an_error_that_lists_what_is_allowed():
    with pytest.raises(ValueError, match=r"noise='white'.*'rademacher' or 'gaussian'"):
        Layerwise("white")
    with pytest.raises(ValueError, match=r"likelihood='poisson'.*'categorical', 'bernoulli' or 'gaussian'"):
        Sampled("poisson")


def test_a_way_of_sampling_is_a_value():
    assert len({Layerwise(), Layerwise("gaussian"), Empirical(), Empirical(), Sampled(), Sampled("categorical")}) == 4
    for way in WAYS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            way.noise = "gaussian"


def test_the_ways_of_sampling_are_public():
    assert {"FisherType", "Layerwise", "Empirical", "Sampled"} <= set(lngd.__all__)
