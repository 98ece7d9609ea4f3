"""Natural-gradient training for PyTorch: `optimizer = LNGD(model)` instead of `AdamW(model.parameters())`."""

from lngd.fisher import FisherType
from lngd.layers import Layer, check_layer, register_layer
from lngd.methods import EKFAC, KFAC, LNGD, PAPER, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD

__all__ = [
    "EKFAC",
    "KFAC",
    "LNGD",
    "PAPER",
    "THOR",
    "TKFAC",
    "FisherType",
    "LNGDLr",
    "LNGDSample",
    "Layer",
    "NGPlus",
    "SpectralLNGD",
    "check_layer",
    "register_layer",
]
__version__ = "0.1.0"
