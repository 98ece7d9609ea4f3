"""Which g a Fisher matrix is made of: three ways of sampling, what they draw, and at what scale.

`as_fisher("layerwise")` is `Layerwise()`; its `source` finds g = Jᵩᵀ ε in `LayerwiseSource.arriving`. The other two files are
built alike.
"""

from lngd.sampling.choice import Fisher, as_fisher
from lngd.sampling.draws import Likelihood, Noise, class_axis, draw, sampled_gradient
from lngd.sampling.empirical import Empirical
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.layerwise import Layerwise
from lngd.sampling.pull import alone, pull_back, pulling
from lngd.sampling.sampled import Sampled, find_predictions
from lngd.sampling.scale import MeanOver, curvature_along, fisher_weight
from lngd.sampling.source import Call, Calls, OnSample, Source

__all__ = [
    "Call",
    "Calls",
    "Empirical",
    "Fisher",
    "FisherType",
    "Layerwise",
    "Likelihood",
    "MeanOver",
    "Noise",
    "OnSample",
    "Sampled",
    "Source",
    "alone",
    "as_fisher",
    "class_axis",
    "curvature_along",
    "draw",
    "find_predictions",
    "fisher_weight",
    "pull_back",
    "pulling",
    "sampled_gradient",
]
