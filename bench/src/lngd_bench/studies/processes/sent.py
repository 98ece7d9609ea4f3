"""What a process receives at a step, from shapes: as DistributedDataParallel and fully_shard send it, and beside that."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import lngd
from lngd.optimizer import NaturalGradient
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.models.resnet import ResNet50

MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-50": ResNet50,
    "GPT-2, 124 M": partial(GPT, 50257, 1024, 768, heads=12, layers=12),
    "GPT, 1.3 B": partial(GPT, 50257, 2048, 2048, heads=16, layers=24),
}
METHODS: Mapping[str, Callable[[nn.Module], NaturalGradient]] = {
    "LNGD": lngd.LNGD,
    "LNGD, factors whole": partial(lngd.LNGD, factors=lngd.Factors(8192)),
    "Spectral LNGD": lngd.SpectralLNGD,
    "K-FAC": lngd.KFAC,
}
FLOAT, HALF, EXACT = 4, 2, 8
"""Bytes of a number: of a gradient, of a direction that a rate is measured along, of a rate's own."""
NUMBERS, FLAGS, LENGTHS = 4, 3, 6
"""Of a layer: what a measured rate sends, what comes with its statistics, and what more where its rows lie apart: its lengths
and the curvature along rows."""


@dataclass(frozen=True)
class Sizes:
    """Of a model with a method, in bytes.

    Attributes:
        gradients: all of them.
        matrices: those of the layers with curvature.
        statistics: what a process reduces of them, a mean over the steps of an interval.
        rates: the numbers that a measured rate sends.
        lengths: what more is sent of layers whose rows lie apart.
        along: the whole directions and weights that a rate is measured with, a mean over the steps of an interval.
        by_owner: whether a layer's direction takes all of its rows.
        shared: whether one process computes it for all that have them.
    """

    gradients: int
    matrices: int
    statistics: float
    rates: int
    lengths: int
    along: float
    by_owner: bool
    shared: bool

    @classmethod
    def of(cls, model: str, method: str) -> "Sizes":
        """On no device."""
        with torch.device("meta"):
            network = MODELS[model]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = METHODS[method](network)
        report, recipe = optimizer.memory_report(), optimizer.recipe
        layers, interval = len(report.layers), recipe.schedule.curvature_every
        measured = recipe.step_size.samples != 0
        curved = sum(torch.Size(o.shape).numel() for o in optimizer.summary() if o.kind == "curvature")
        return cls(
            gradients=report.parameters,
            matrices=FLOAT * curved,
            statistics=(sum(layer.exchanged for layer in report.layers) + layers * FLAGS * FLOAT) / interval,
            rates=NUMBERS * EXACT * layers if measured else 0,
            lengths=LENGTHS * EXACT * layers,
            along=2 * HALF * curved / interval if measured else 0.0,
            by_owner=not all(block.by_rows for block in optimizer.blocks.values()) or recipe.spectral,
            shared=recipe.spectral,
        )

    def ddp(self, processes: int) -> tuple[float, float]:
        """What a process receives of the gradients, and beside them; an all-reduce goes round a ring twice."""
        once = (processes - 1) / processes
        directions = self.matrices if self.shared else 0
        return 2 * once * self.gradients, once * (2 * (self.statistics + self.rates) + directions)

    def fsdp(self, processes: int) -> tuple[float, float]:
        """The same of fully_shard, which gathers the weights twice and scatters the gradients."""
        once = (processes - 1) / processes
        owned = 2 * self.matrices / processes if self.by_owner else 0.0
        return 3 * once * self.gradients, once * (2 * (self.statistics + self.rates + self.lengths) + self.along + owned)


def peers(model: str, processes: int) -> Mapping[str, float]:
    """What others receive beside the gradients of DistributedDataParallel: AdamW and torch's Muon, of which every process does
    all of the work, nothing; DistributedShampoo, of which each does a share, everybody's updates."""
    with torch.device("meta"):
        network = MODELS[model]()
    gathered = (processes - 1) / processes * sum(p.nbytes for p in network.parameters())
    return {"AdamW": 0.0, "Muon": 0.0, "DistributedShampoo": gathered}
