"""Watching a model train: which inputs reach its layers and which gradients come back."""

from lngd.capture.graph import RateSample, spread
from lngd.capture.hooks import Capture
from lngd.capture.sources import Calls, OnSample, source_of

__all__ = ["Calls", "Capture", "OnSample", "RateSample", "source_of", "spread"]
