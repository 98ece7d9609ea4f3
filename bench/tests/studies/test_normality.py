"""Normality statistics against closed forms and SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Exponential

from lngd_bench.studies.gaussian.normality import COLUMNS_AT_ONCE, FEWEST, normality, normality_of_columns

SAMPLES = {
    "normal": lambda n: torch.randn(n),
    "exponential": lambda n: Exponential(torch.tensor(1.0)).sample((n,)),
    "uniform": lambda n: torch.rand(n),
    "ReLU of a normal": lambda n: torch.randn(n).relu(),
    "heavy tails": lambda n: torch.randn(n) / torch.rand(n).sqrt(),
}


@pytest.mark.parametrize("draw", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("n", [FEWEST, 500, 20_000])
def test_the_distance_and_the_shape_are_those_of_the_fitted_normal(draw, n: int) -> None:
    x = draw(n).double()
    found, reference = normality(x), x.numpy()
    mean, deviation = reference.mean(), reference.std()
    z = (reference - mean) / deviation
    assert found["distance"] == pytest.approx(stats.kstest(reference, "norm", (mean, deviation)).statistic)
    assert (found["skewness"], found["excess_kurtosis"]) == (
        pytest.approx((z**3).mean(), abs=1e-9),
        pytest.approx((z**4).mean() - 3),
    )
    assert found["p_value"] == pytest.approx(stats.normaltest(reference).pvalue, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 2.0), (-0.5, 0.7)])
def test_the_normal_below_a_rectified_one_is_recovered(mean: float, deviation: float) -> None:
    found = normality((mean + deviation * torch.randn(200_000)).double().relu())
    assert found["rectified_mean"] == pytest.approx(mean, abs=0.03)
    assert found["rectified_deviation"] == pytest.approx(deviation, rel=0.03)
    assert found["rectified_distance"] < 0.02
    assert found["distance"] > 0.1


def test_what_lies_above_zero_is_judged_as_if_there_were_nothing_else() -> None:
    """99 % zeros: over all observations, anything would be within 0.01 of anything."""
    x = torch.zeros(100_000)
    x[:1_000] = 1 + 0.01 * torch.rand(1_000)
    assert normality(x)["rectified_distance"] > 0.3


@pytest.mark.parametrize("x", [torch.randn(100), torch.rand(100), torch.zeros(100), -torch.rand(100).relu()])
def test_a_sample_that_is_no_rectified_one_has_no_rectified_fit(x: Tensor) -> None:
    found = normality(x)
    assert np.isnan(found["rectified_distance"])
    assert np.isnan(found["rectified_mean"])


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_sample_has_a_mean_and_no_shape(value: float) -> None:
    found = normality(torch.stack([torch.full((100,), value), torch.randn(100)], 1))
    assert found["mean"][0] == pytest.approx(value)
    for shape in (found["deviation"], found["skewness"], found["excess_kurtosis"], found["distance"], found["p_value"]):
        assert np.isnan(shape).tolist() == [True, False]
    assert found["zeros"][0] == (1.0 if value == 0 else 0.0)


def test_columns_are_samples_of_their_own_in_whatever_portions() -> None:
    x = torch.randn(50, COLUMNS_AT_ONCE + 3).relu()
    found = normality_of_columns(x)
    for column in (0, COLUMNS_AT_ONCE - 1, COLUMNS_AT_ONCE, COLUMNS_AT_ONCE + 2):
        for name, value in normality(x[:, column]).items():
            np.testing.assert_allclose(found[name][column], value)


@pytest.mark.parametrize(
    ("x", "message"), [(torch.randn(FEWEST - 1), "at least 20"), (torch.tensor([math.nan] * 30), "not finite")]
)
def test_a_sample_without_an_answer_is_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normality(x)
