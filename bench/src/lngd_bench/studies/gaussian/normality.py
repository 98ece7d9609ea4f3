"""How far a sample is from normal: moments, distances to fitted normals and D'Agostino's test, all in float64.

Convention: the first axis counts observations; every other axis is a sample of its own, so that all coordinates of a layer are
judged at once. Moments divide by n. What a constant sample has no value for is NaN.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
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


@dataclass(frozen=True, kw_only=True)
class Normality:
    """What a table and a figure need to know of each sample.

    Attributes:
        mean, deviation: of all observations, the normal that fits best.
        skewness: E[z³], 0 for a normal.
        excess_kurtosis: E[z⁴] − 3, 0 for a normal.
        distance: Kolmogorov–Smirnov, supₜ |F(t) − Φ((t−µ)/σ)|. A normal sample of n has about 0.63/√n.
        p_value: of D'Agostino's and Pearson's omnibus test. Thousands of observations make it small for any small deviation.
        zeros: the share of observations that are exactly 0.
        rectified_mean, rectified_deviation: the normal of which `max(0, ·)` has the sample's share of zeros and its mean.
        rectified_distance: Kolmogorov–Smirnov of the observations above 0 to that normal's part above 0.
    """

    mean: PerSample
    deviation: PerSample
    skewness: PerSample
    excess_kurtosis: PerSample
    distance: PerSample
    p_value: PerSample
    zeros: PerSample
    rectified_mean: PerSample
    rectified_deviation: PerSample
    rectified_distance: PerSample


NUMBERS = tuple(field.name for field in fields(Normality))


def normality(sample: Float[Tensor, "n ..."]) -> Normality:
    """All of it.

    Raises:
        ValueError: fewer than 20 observations, or one that is not finite.
    """
    from scipy import stats

    if len(sample) < FEWEST:
        raise ValueError(f"a sample of {len(sample)} observations: give at least {FEWEST}")
    if not sample.isfinite().all():
        raise ValueError("the sample holds values that are not finite: has the training diverged?")
    x = np.sort(sample.detach().cpu().double().numpy(), axis=0)
    found = {name: np.full(x.shape[1:], np.nan) for name in NUMBERS}
    found["mean"], found["zeros"] = x.mean(0), (x == 0).mean(0)
    varies = x[0] < x[-1]
    shaped = x[:, varies]
    mean, deviation = shaped.mean(0), shaped.std(0)
    shapes = {"skewness": stats.skew(shaped), "excess_kurtosis": stats.kurtosis(shaped), "deviation": deviation}
    shapes |= {"distance": _gaps(shaped, mean, deviation).max(0), "p_value": stats.normaltest(shaped).pvalue}
    cut_off = (x[0] == 0) & ((x > 0).sum(0) >= FEWEST)
    rectified = dict(zip([name for name in NUMBERS if name.startswith("rectified")], _rectified(x[:, cut_off]), strict=True))
    for chosen, values in ((varies, shapes), (cut_off, rectified)):
        for name, value in values.items():
            found[name][chosen] = value
    return Normality(**found)


def normality_of_columns(samples: Float[Tensor, "n columns"]) -> dict[str, PerSample]:
    """The fields of each column's `Normality`, a few columns at a time: float64 copies of all would fill the memory."""
    parts = [vars(normality(part)) for part in samples.split(COLUMNS_AT_ONCE, 1)]
    return {name: np.concatenate([part[name] for part in parts]) for name in NUMBERS}


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
