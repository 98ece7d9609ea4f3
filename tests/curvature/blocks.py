"""Every curvature block, by the name of its method."""

from functools import partial

import pytest

from lngd.curvature import EKFACBlock, KFACBlock, LNGDBlock, NGPlusBlock, SpectralBlock, THORBlock, TKFACBlock

BLOCKS = {
    "LNGD": LNGDBlock,
    "Spectral": SpectralBlock,
    "KFAC": KFACBlock,
    "EKFAC": EKFACBlock,
    "TKFAC": TKFACBlock,
    "NGPlus": NGPlusBlock,
    "THOR": THORBlock,
    "THOR in pieces": partial(THORBlock, 2),
}
every_block = pytest.mark.parametrize("kind", BLOCKS)
