"""What a method keeps of each layer's Fisher matrix: one file per approximation."""

from lngd.curvature.block import CurvatureBlock
from lngd.curvature.ekfac import EKFACBlock
from lngd.curvature.kfac import KFACBlock
from lngd.curvature.lngd import LNGDBlock
from lngd.curvature.lngd_kronecker import LNGDKroneckerBlock
from lngd.curvature.ngplus import NGPlusBlock
from lngd.curvature.spectral import SpectralBlock, SpectralKroneckerBlock
from lngd.curvature.thor import THORBlock
from lngd.curvature.tkfac import TKFACBlock

__all__ = [
    "CurvatureBlock",
    "EKFACBlock",
    "KFACBlock",
    "LNGDBlock",
    "LNGDKroneckerBlock",
    "NGPlusBlock",
    "SpectralBlock",
    "SpectralKroneckerBlock",
    "THORBlock",
    "TKFACBlock",
]
