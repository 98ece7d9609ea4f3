"""Normality statistics against closed forms and SciPy's."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Exponential

from lngd_bench.studies.gaussian.normality import (
    COLUMNS_AT_ONCE,
    FEWEST,
    Normal,
    aggregate,
    fitted_rectified_normal,
    normality,
    normality_of_columns,
)

SAMPLES = {
    "normal": lambda n: torch.randn(n),
    "exponential": lambda n: Exponential(torch.tensor(1.0)).sample((n,)),
    "uniform": lambda n: torch.rand(n),
    "ReLU of a normal": lambda n: torch.randn(n).relu(),
    "heavy tails": lambda n: torch.randn(n) / torch.rand(n).sqrt(),
}
every_sample = pytest.mark.parametrize("draw", SAMPLES.values(), ids=SAMPLES)


@every_sample
@pytest.mark.parametrize("n", [FEWEST, 500, 20_000])
def test_every_statistic_is_scipys(draw, n: int) -> None:
    x = draw(n).double()
    found, reference = normality(x), x.numpy()
    mean, deviation = reference.mean(), reference.std()
    distance = stats.kstest(reference, "norm", (mean, deviation)).statistic
    assert found.normal.mean.item() == pytest.approx(mean)
    assert found.normal.deviation.item() == pytest.approx(deviation)
    assert found.skewness.item() == pytest.approx(stats.skew(reference), rel=1e-9, abs=1e-12)
    assert found.excess_kurtosis.item() == pytest.approx(stats.kurtosis(reference), rel=1e-9, abs=1e-12)
    assert found.distance.item() == pytest.approx(distance)
    assert found.p_value.item() == pytest.approx(stats.normaltest(reference).pvalue, rel=1e-6, abs=1e-300)


def test_a_normal_sample_is_close_and_an_exponential_one_has_skewness_two_and_kurtosis_six() -> None:
    normal = normality(3 * torch.randn(100_000) - 7)
    assert normal.distance < 1.0 / math.sqrt(100_000)
    assert abs(normal.skewness) < 0.05
    assert abs(normal.excess_kurtosis) < 0.1
    exponential = normality(SAMPLES["exponential"](1_000_000))
    assert exponential.skewness.item() == pytest.approx(2, abs=0.05)
    assert exponential.excess_kurtosis.item() == pytest.approx(6, abs=0.5)
    assert exponential.distance.item() == pytest.approx(torch.special.ndtr(torch.tensor(-1.0)).item(), abs=0.003)  # at t = 0


def test_the_distance_of_a_rectified_normal_is_its_step_at_zero() -> None:
    """F(0) = ½ against Φ(−µ/σ) with µ = φ(0) and σ² = ½ − φ(0)²."""
    mean = 1 / math.sqrt(2 * math.pi)
    expected = 0.5 - torch.special.ndtr(torch.tensor(-mean / math.sqrt(0.5 - mean**2))).item()
    found = normality(torch.randn(200_000).relu())
    assert found.distance.item() == pytest.approx(expected, abs=0.003)
    assert found.zeros.item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("scale", [0.01, -5.0])
@every_sample
def test_scale_and_place_change_nothing_but_the_sign_of_the_skewness(draw, scale: float) -> None:
    x = draw(1_000).double()
    before, after = normality(x), normality(scale * x + 3)
    torch.testing.assert_close(after.distance, before.distance)
    torch.testing.assert_close(after.skewness, math.copysign(1, scale) * before.skewness)
    torch.testing.assert_close(after.excess_kurtosis, before.excess_kurtosis)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 2.0), (-0.5, 0.7)])
def test_the_normal_below_a_rectified_one_is_recovered(mean: float, deviation: float) -> None:
    x = (mean + deviation * torch.randn(200_000)).double().relu()
    fitted = fitted_rectified_normal(x)
    assert fitted.mean.item() == pytest.approx(mean, abs=0.03)
    assert fitted.deviation.item() == pytest.approx(deviation, rel=0.03)
    found = normality(x)
    assert found.rectified_distance < 0.02
    assert found.distance > 0.1


def test_what_lies_above_zero_is_judged_as_if_there_were_nothing_else() -> None:
    """99 % zeros: over all observations, anything would be within 0.01 of anything."""
    x = torch.zeros(100_000)
    x[:1_000] = 1 + 0.01 * torch.rand(1_000)
    assert normality(x).rectified_distance > 0.3


@pytest.mark.parametrize("x", [torch.randn(100), torch.rand(100), torch.zeros(100), -torch.rand(100).relu()])
def test_a_sample_that_is_no_rectified_one_has_no_rectified_fit(x: Tensor) -> None:
    found = normality(x)
    assert found.rectified_distance.isnan()
    assert found.rectified.mean.isnan()


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_sample_has_a_mean_and_no_shape(value: float) -> None:
    found = normality(torch.stack([torch.full((100,), value), torch.randn(100)], 1))
    assert found.normal.mean[0].item() == pytest.approx(value)
    for shape in (found.normal.deviation, found.skewness, found.excess_kurtosis, found.distance, found.p_value):
        assert shape.isnan().tolist() == [True, False]
    assert found.zeros[0].item() == (1.0 if value == 0 else 0.0)


def test_columns_are_samples_of_their_own_in_whatever_portions() -> None:
    x = torch.randn(50, COLUMNS_AT_ONCE + 3).relu()
    found = normality_of_columns(x)
    for column in (0, COLUMNS_AT_ONCE - 1, COLUMNS_AT_ONCE, COLUMNS_AT_ONCE + 2):
        alone = normality(x[:, column]).numbers()
        for name, value in alone.items():
            torch.testing.assert_close(found[name][column], value, equal_nan=True)


def test_the_aggregate_leaves_unknown_distances_out() -> None:
    found = aggregate(torch.tensor([0.01, math.nan, 0.04, 0.3]))
    assert found == {"known": 3, "median": pytest.approx(0.04), "close": pytest.approx(2 / 3)}
    nothing = aggregate(torch.tensor([math.nan]))
    assert nothing["known"] == 0
    assert math.isnan(nothing["median"])


def test_density_and_distribution_belong_together() -> None:
    normal = Normal(torch.tensor(1.0), torch.tensor(2.0))
    t = torch.linspace(-20, 20, 4001, dtype=torch.double)
    torch.testing.assert_close(torch.cumulative_trapezoid(normal.density(t), t)[-1], torch.tensor(1.0, dtype=torch.double))
    torch.testing.assert_close(normal.cdf(t), torch.as_tensor(stats.norm(1, 2).cdf(t.numpy())))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(FEWEST - 1), "at least 20"),
        (torch.tensor([math.inf] * 30), "not finite"),
        (torch.tensor([math.nan] * 30), "not finite"),
    ],
)
def test_a_sample_without_an_answer_is_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normality(x)
