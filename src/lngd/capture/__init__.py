"""Watching a model train: which inputs reach its layers and which gradients come back."""

from lngd.capture.attention_hooks import Capture
from lngd.capture.graph import RateSample, spread
from lngd.capture.source import Calls, OnSample
from lngd.capture.sources import source_of

__all__ = ["Calls", "Capture", "OnSample", "RateSample", "source_of", "spread"]
