"""Natural-gradient training for PyTorch: `optimizer = LNGD(model)` instead of `AdamW(model.parameters())`."""

from lngd.methods import EKFAC, KFAC, LNGD, PAPER, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD
from lngd.sampling import Empirical, FisherType, Layerwise, Sampled

__all__ = [
    "EKFAC",
    "KFAC",
    "LNGD",
    "PAPER",
    "THOR",
    "TKFAC",
    "Empirical",
    "FisherType",
    "LNGDLr",
    "LNGDSample",
    "Layerwise",
    "NGPlus",
    "Sampled",
    "SpectralLNGD",
]
__version__ = "0.1.0"
