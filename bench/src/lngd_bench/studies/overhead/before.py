"""The library of another checkout beside this one, in the same process: what changes have made of a step."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from torch import nn
from torch.optim import Optimizer

from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.timing import counted_from
from lngd_bench.tasks.task import MeanOver

BEFORE = " before"
"""Behind a method's name: that method of the other checkout."""
CLASSES = {"lngd": "LNGD", "lngd-spectral": "SpectralLNGD"}


class Checkout:
    """The package `lngd` in a folder. Its modules are imported once and then known to nobody else.

    Raises:
        BenchError: the folder holds no such package.
    """

    def __init__(self, source: Path) -> None:
        if not (source / "lngd" / "__init__.py").is_file():
            raise BenchError(f"--before {source}: give the folder that holds a package lngd, such as the src of another checkout")
        own = _taken_out()
        sys.path.insert(0, str(source.resolve()))
        try:
            self._package = importlib.import_module("lngd")
        finally:
            del sys.path[0]
            _taken_out()
            sys.modules.update(own)

    def build(self, method: str, model: nn.Module, mean_over: MeanOver, first: int) -> Optimizer:
        """One of CLASSES with BEFORE behind its name, at its defaults but rate 0; its first step counts as `first`."""
        optimizer: Optimizer = getattr(self._package, CLASSES[method.removesuffix(BEFORE)])(model, mean_over=mean_over)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return counted_from(first, optimizer)


def _taken_out() -> dict[str, ModuleType]:
    """The modules of `lngd`, of which `sys.modules` knows no more."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "lngd"}
