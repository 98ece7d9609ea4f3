"""How far a sample is from normal: moments, distances to fitted normals and D'Agostino's test, all in float64.

Convention: the first axis counts observations; every other axis is a sample of its own, so that all coordinates of a layer are
judged at once. Moments divide by n. What a constant sample has no value for is NaN.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

FEWEST = 20
"""Observations below which D'Agostino's approximation is not usable."""
CLOSE = 0.05
"""A Kolmogorov–Smirnov distance below which a histogram looks normal to the eye."""
COLUMNS_AT_ONCE = 256

Samples: TypeAlias = Float[ndarray, "n ..."]
PerSample: TypeAlias = Float[ndarray, "..."]


def normality(sample: Float[Tensor, "n ..."]) -> dict[str, PerSample]:
    """What a table and a figure need to know of each sample.

    - mean, deviation: of all observations, the normal that fits best;
    - skewness, excess_kurtosis: E[z³] and E[z⁴] − 3, 0 for a normal;
    - distance: Kolmogorov–Smirnov, supₜ |F(t) − Φ((t−µ)/σ)|. A normal sample of n has about 0.63/√n;
    - p_value: of D'Agostino's and Pearson's omnibus test. Thousands of observations make it small for any small deviation;
    - zeros: the share of observations that are exactly 0;
    - rectified_mean, rectified_deviation: the normal of which `max(0, ·)` has the sample's share of zeros and its mean;
    - rectified_distance: Kolmogorov–Smirnov of the observations above 0 to that normal's part above 0.

    Raises:
        ValueError: fewer than 20 observations, or one that is not finite.
    """
    from scipy import stats

    if len(sample) < FEWEST:
        raise ValueError(f"a sample of {len(sample)} observations: give at least {FEWEST}")
    if not sample.isfinite().all():
        raise ValueError("the sample holds values that are not finite: has the training diverged?")
    x = np.sort(sample.detach().cpu().double().numpy(), axis=0)
    varies = x[0] < x[-1]
    cut_off = (x[0] == 0) & ((x > 0).sum(0) >= FEWEST)
    shaped, rectified = x[:, varies], _rectified(x[:, cut_off])
    mean, deviation = shaped.mean(0), shaped.std(0)

    def where(chosen: ndarray, values: ndarray) -> PerSample:
        found = np.full(x.shape[1:], np.nan)
        found[chosen] = values
        return found

    return {
        "mean": x.mean(0),
        "deviation": where(varies, deviation),
        "skewness": where(varies, stats.skew(shaped)),
        "excess_kurtosis": where(varies, stats.kurtosis(shaped)),
        "distance": where(varies, _gaps(shaped, mean, deviation).max(0)),
        "p_value": where(varies, stats.normaltest(shaped).pvalue),
        "zeros": (x == 0).mean(0),
        "rectified_mean": where(cut_off, rectified[0]),
        "rectified_deviation": where(cut_off, rectified[1]),
        "rectified_distance": where(cut_off, rectified[2]),
    }


def normality_of_columns(samples: Float[Tensor, "n columns"]) -> dict[str, PerSample]:
    """`normality` of each column, a few at a time: float64 copies of all would fill the memory."""
    parts = [normality(part) for part in samples.split(COLUMNS_AT_ONCE, 1)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def aggregate(distances: PerSample) -> Mapping[str, float]:
    """How many are known (a constant sample has none), their median, and the share below 0.05; NaN where none is known."""
    known = distances[np.isfinite(distances)]
    if not len(known):
        return {"known": 0, "median": math.nan, "close": math.nan}
    return {"known": len(known), "median": float(np.median(known)), "close": float((known < CLOSE).mean())}


def _rectified(x: Samples) -> tuple[PerSample, PerSample, PerSample]:
    """Mean and deviation of the N(µ, σ²) of which `max(0, ·)` has x's share of zeros and x's mean, and how far it is.

    With h = µ/σ: Φ(−h) is the share of zeros, and σ (φ(h) + h Φ(h)) the mean. The distance is taken as a share of what lies above
    0: otherwise a sample of zeros and little else would be close to anything.
    """
    from scipy import stats

    h = -stats.norm.ppf((x == 0).mean(0))
    deviation = x.mean(0) / (stats.norm.pdf(h) + h * stats.norm.cdf(h))
    above = x > 0
    return h * deviation, deviation, np.where(above, _gaps(x, h * deviation, deviation), 0.0).max(0) / above.mean(0)


def _gaps(x: Samples, mean: PerSample, deviation: PerSample) -> Samples:
    """Between a normal's distribution and the step that the empirical one makes at each observation, `x` ascending."""
    from scipy import special

    rank = np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
    cdf = special.ndtr((x - mean) / deviation)
    return np.maximum((rank + 1) / len(x) - cdf, cdf - rank / len(x))
