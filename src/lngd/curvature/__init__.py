"""What a method keeps of each layer's Fisher matrix: one file per approximation."""

from lngd.curvature.block import CurvatureBlock
from lngd.curvature.lngd import LNGDBlock

__all__ = ["CurvatureBlock", "LNGDBlock"]
