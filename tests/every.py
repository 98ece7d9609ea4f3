"""All nine methods by name, and options under which each step measures everything and forgets what was."""

from collections.abc import Callable
from typing import Any

from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, Schedule, SpectralLNGD

KINDS = (LNGD, SpectralLNGD, KFAC, EKFAC, TKFAC, NGPlus, THOR, LNGDLr, LNGDSample)
METHODS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in KINDS}
EVERY_STEP: dict[str, Any] = {
    "schedule": Schedule(curvature_every=1, inverse_every=1, samples=None),
    "momentum": 0.0,
    "decay": 0.0,
}
