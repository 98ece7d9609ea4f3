"""How far a sample is from normal: moments, distances to fitted normals and D'Agostino's test, all in float64.

Convention: the first axis counts observations; every other axis is a sample of its own, so that all coordinates of a layer are
judged at once. Moments divide by n. What a constant sample has no value for is NaN.
"""

import math
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Samples: TypeAlias = Float[Tensor, "n ..."]
PerSample: TypeAlias = Float[Tensor, "..."]

FEWEST = 20
"""Observations below which D'Agostino's approximation is not usable."""
CLOSE = 0.05
"""A Kolmogorov–Smirnov distance below which a histogram looks normal to the eye."""
COLUMNS_AT_ONCE = 256


@dataclass(frozen=True)
class Normal:
    """N(µ, σ²), one for each sample."""

    mean: PerSample
    deviation: PerSample

    def cdf(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """P(X ≤ x)."""
        return torch.special.ndtr((x - self.mean) / self.deviation)

    def density(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """At x."""
        return _density((x - self.mean) / self.deviation) / self.deviation


@dataclass(frozen=True)
class Normality:
    """What a table and a figure need to know of each sample.

    Attributes:
        normal: mean and standard deviation of all observations.
        skewness: E[z³], 0 for a normal.
        excess_kurtosis: E[z⁴] − 3, 0 for a normal.
        distance: Kolmogorov–Smirnov, supₜ |F(t) − Φ((t−µ)/σ)|. A normal sample of n has about 0.63/√n.
        p_value: of D'Agostino's and Pearson's omnibus test. Thousands of observations make it small for any small deviation.
        zeros: the share of observations that are exactly 0.
        rectified: the normal of which `max(0, ·)` has the sample's share of zeros and its mean.
        rectified_distance: Kolmogorov–Smirnov of the observations above 0 to that normal's part above 0.
    """

    normal: Normal
    skewness: PerSample
    excess_kurtosis: PerSample
    distance: PerSample
    p_value: PerSample
    zeros: PerSample
    rectified: Normal
    rectified_distance: PerSample

    def numbers(self) -> dict[str, Tensor]:
        """Every field by name, flat."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        normal, rectified = named.pop("normal"), named.pop("rectified")
        pairs = {"rectified_mean": rectified.mean, "rectified_deviation": rectified.deviation}
        return {"mean": normal.mean, "deviation": normal.deviation, **named, **pairs}


def normality(sample: Samples) -> Normality:
    """All of it.

    Raises:
        ValueError: fewer than 20 observations, or one that is not finite.
    """
    if len(sample) < FEWEST:
        raise ValueError(f"a sample of {len(sample)} observations: give at least {FEWEST}")
    if not sample.isfinite().all():
        raise ValueError("the sample holds values that are not finite: has the training diverged?")
    x = sample.double().sort(0).values
    normal, rectified = fitted_normal(x), fitted_rectified_normal(x)
    skewness, excess_kurtosis = shape_moments(x, normal)
    return Normality(
        normal,
        skewness,
        excess_kurtosis,
        _largest_gap(x, normal).amax(0),
        omnibus_p_value(skewness, excess_kurtosis, len(x)),
        (x == 0).double().mean(0),
        rectified,
        _largest_gap_above_zero(x, rectified),
    )


def normality_of_columns(samples: Samples) -> dict[str, PerSample]:
    """`Normality.numbers` of each column, a few columns at a time: float64 copies of all would fill the memory."""
    parts = [normality(part).numbers() for part in samples.split(COLUMNS_AT_ONCE, 1)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def aggregate(distances: PerSample) -> dict[str, float]:
    """How many are known (a constant sample has none), their median, and the share below 0.05; NaN where none is known."""
    known = distances[distances.isfinite()]
    if not len(known):
        return {"known": 0, "median": math.nan, "close": math.nan}
    return {"known": len(known), "median": known.quantile(0.5).item(), "close": (known < CLOSE).double().mean().item()}


def fitted_normal(x: Samples) -> Normal:
    """The most likely one; a constant sample has σ = NaN: no normal density fits it."""
    constant = x.amax(0) == x.amin(0)
    return Normal(x.mean(0), x.std(0, correction=0).masked_fill(constant, math.nan))


def fitted_rectified_normal(x: Samples) -> Normal:
    """N(µ, σ²) of which `max(0, ·)` has x's share of zeros and x's mean.

    With h = µ/σ: Φ(−h) is the share of zeros, and σ (φ(h) + h Φ(h)) the mean. NaN for samples with negative values, without
    zeros, or with fewer than 20 others.
    """
    zeros, others = (x == 0).double().mean(0), (x != 0).sum(0)
    h = -torch.special.ndtri(zeros)
    deviation = x.mean(0) / (_density(h) + h * torch.special.ndtr(h))
    cut_off = (x.amin(0) == 0) & (others >= FEWEST)
    return Normal((h * deviation).where(cut_off, math.nan), deviation.where(cut_off, math.nan))


def shape_moments(x: Samples, normal: Normal) -> tuple[PerSample, PerSample]:
    """Skewness and excess kurtosis."""
    z = (x - normal.mean) / normal.deviation
    return z.pow(3).mean(0), z.pow(4).mean(0) - 3


def omnibus_p_value(skewness: PerSample, excess_kurtosis: PerSample, n: int) -> PerSample:
    """P(χ²₂ ≥ z₁² + z₂²) = exp(−(z₁² + z₂²)/2) (D'Agostino and Pearson 1973)."""
    statistic = _skewness_score(skewness, n).square() + _kurtosis_score(excess_kurtosis, n).square()
    return (-statistic / 2).exp()


def _largest_gap(x: Samples, normal: Normal) -> Samples:
    """Between the normal's distribution and the step that the empirical one makes at each observation, `x` ascending."""
    rank = torch.arange(len(x), dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.dim() - 1))
    cdf = normal.cdf(x)
    return torch.maximum((rank + 1) / len(x) - cdf, cdf - rank / len(x))


def _largest_gap_above_zero(x: Samples, normal: Normal) -> PerSample:
    """As a share of what lies above 0: otherwise a sample of zeros and little else would be close to anything."""
    gaps = _largest_gap(x, normal).where(x > 0, 0.0).amax(0) / (x > 0).double().mean(0)
    return gaps.where(normal.deviation > 0, math.nan)


def _density(z: Tensor) -> Tensor:
    return (-z.square() / 2).exp() / math.sqrt(2 * math.pi)


def _skewness_score(skewness: Tensor, n: int) -> Tensor:
    """A standard normal for normal samples (D'Agostino 1970)."""
    y = skewness * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    square = math.sqrt(2 * (beta - 1)) - 1  # W²
    return torch.asinh(y * math.sqrt((square - 1) / 2)) / math.sqrt(math.log(square) / 2)


def _kurtosis_score(excess_kurtosis: Tensor, n: int) -> Tensor:
    """A standard normal for normal samples (Anscombe and Glynn 1983)."""
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    y = (excess_kurtosis + 3 - 3 * (n - 1) / (n + 1)) / math.sqrt(variance)
    beta = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    freedom = 6 + 8 / beta * (2 / beta + math.sqrt(1 + 4 / beta**2))
    base = 1 + y * math.sqrt(2 / (freedom - 4))
    root = base.sign() * ((1 - 2 / freedom) / base.abs()).pow(1 / 3)
    return (1 - 2 / (9 * freedom) - root) / math.sqrt(2 / (9 * freedom))
