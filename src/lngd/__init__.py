"""Natural-gradient training for PyTorch: `optimizer = LNGD(model)` instead of `AdamW(model.parameters())`."""

from lngd.layers import Layer, check_layer, register_layer
from lngd.methods import EKFAC, KFAC, LNGD, PAPER, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD
from lngd.optimizer import Factors, Schedule
from lngd.sampling import Empirical, FisherType, Layerwise, Sampled
from lngd.step_size import Constant, FixedRMS, Graft, InvariantRate, KLClip, LayerwiseRate
from lngd.version import __version__ as __version__

__all__ = [
    "EKFAC",
    "KFAC",
    "LNGD",
    "PAPER",
    "THOR",
    "TKFAC",
    "Constant",
    "Empirical",
    "Factors",
    "FisherType",
    "FixedRMS",
    "Graft",
    "InvariantRate",
    "KLClip",
    "LNGDLr",
    "LNGDSample",
    "Layer",
    "Layerwise",
    "LayerwiseRate",
    "NGPlus",
    "Sampled",
    "Schedule",
    "SpectralLNGD",
    "check_layer",
    "register_layer",
]
