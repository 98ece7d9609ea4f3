"""Natural-gradient training for PyTorch: `optimizer = LNGD(model)` instead of `AdamW(model.parameters())`."""

from lngd.fisher import FisherType
from lngd.methods import LNGD, PAPER, LNGDSample

__all__ = ["LNGD", "PAPER", "FisherType", "LNGDSample"]
__version__ = "0.1.0"
