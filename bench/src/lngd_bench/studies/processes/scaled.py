"""A step of a large model on many GPUs, as arithmetic makes it: operations over stated speeds, bytes over stated links.

Nothing here was run on a GPU. `timed` has a model of the same kind for processes on this machine, held against them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lngd_bench.studies.processes.sent import MODELS, Sizes

TOKENS = 2**14
"""Of a GPU's batch."""
PASSES, ITERATIONS = 6, 11
"""Operations of a token and a weight, forward and backward; square products of a polar factor."""


@dataclass(frozen=True)
class Machine:
    """Stated speeds: operations a second in bfloat16 and of float32 products, bytes a second inside a node and between, seconds
    that a collective takes at least for each doubling of the processes."""

    low: float = 4e14
    full: float = 6e13
    inside: float = 4e11
    between: float = 4.5e10
    hop: float = 1e-5
    node: int = 8

    def link(self, processes: int) -> float:
        """Bytes a second of a process in a ring over all."""
        return self.inside if processes <= self.node else self.between

    def calls(self, count: int, processes: int) -> float:
        """Seconds of so many collectives, without their bytes."""
        return count * self.hop * math.log2(processes)


@dataclass(frozen=True)
class Step:
    """Seconds of a step.

    Attributes:
        passes: forward and backward.
        gradients: their average, beside which the backward pass goes on.
        optimizer: what a process computes of directions.
        exchange: what the optimizer sends.
    """

    passes: float
    gradients: float
    optimizer: float
    exchange: float

    @property
    def total(self) -> float:
        """Two thirds of the passes are backward, and hide as much of the gradients' average."""
        return self.passes + max(0.0, self.gradients - self.passes * 2 / 3) + self.optimizer + self.exchange


def steps(model: str, processes: int, machine: Machine | None = None) -> Mapping[str, Step]:
    """Of one model under DistributedDataParallel, by optimizer. Muon as torch has it: every process does all of it."""
    on = machine or Machine()
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in MODELS[model]().parameters() if p.dim() == 2]
    weights = sum(o * i for o, i in shapes)
    sides = [(min(shape), max(shape)) for shape in shapes if max(shape) < 20000]  # neither the embedding nor the head
    polar = sum(2 * small**2 * (2 * large + ITERATIONS * small) for small, large in sides) / on.full
    muon = sum(2 * small**2 * 5 * (2 * large + small) for small, large in sides) / on.low
    factors = sum(2 * small * large * 2 * 256 for small, large in sides) / on.full
    passes = PASSES * TOKENS * weights / on.low
    found = {"AdamW": Step(passes, _gradients(model, processes, on), 0.0, 0.0)}
    found["Muon"] = Step(passes, found["AdamW"].gradients, muon, 0.0)
    for method, work in (("LNGD", factors), ("Spectral LNGD", (polar + factors) / processes)):
        sizes = Sizes.of(model, method)
        exchange = sizes.ddp(processes)[1] / on.link(processes) + on.calls(2, processes)
        found[method] = Step(passes, found["AdamW"].gradients, work, exchange)
    return found


def _gradients(model: str, processes: int, on: Machine) -> float:
    return Sizes.of(model, "LNGD").ddp(processes)[0] / on.link(processes)
