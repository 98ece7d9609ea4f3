"""A small model of each family of timm, on small images."""

import re
from collections.abc import Iterator, Mapping
from functools import partial

import timm
import torch
from torch import Tensor, nn

from lngd_bench.studies.zoo.shrinking import Ways

VERSION = timm.__version__
LARGEST = 40_000_000
"""Of a family of which no model is small."""
SMALL = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xx?small",
    "micro",
    "mini",
    "tiny",
    "xs",
    "s0|s1|_0|x0",
    "small",
    "1[0248]",
    "",
)
"""What the names of small models contain, the smallest first."""


def types() -> Mapping[str, Ways]:
    """By family, which is a module of timm."""
    return {name: partial(builds, name) for name in timm.list_modules() if timm.list_models(module=name)}


def smallest(family: str) -> list[str]:
    """Some models of a family, by how small their names are."""
    names = timm.list_models(module=family)
    return sorted(names, key=lambda name: (next(k for k, words in enumerate(SMALL) if re.search(words, name)), len(name)))[:3]


def builds(family: str) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """A model in some sizes of images, with two of them."""
    for name in smallest(family):
        own = timm.get_pretrained_cfg(name)
        side = own.input_size[-1] if own is not None else 224
        for size, options in ((64, {}), (64, {"img_size": 64}), (side, {})):
            try:
                with torch.device("meta"):
                    if sum(p.numel() for p in timm.create_model(name).parameters()) > LARGEST:
                        break
                torch.manual_seed(0)
                model = timm.create_model(name, num_classes=10, **options).train()
            except Exception:  # noqa: S112  whatever another library raises where sizes do not fit
                continue
            yield model, {"x": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}
