"""What an ordinary training step costs in calls: of Python into the library, and of torch's operations.

    python -m lngd_bench.studies.overhead.calls

A training step is zero_grad, forward, backward and the optimizer's step. Ordinary is one that neither measures curvature nor
refreshes an inverse nor looks for scale-invariant layers: the 26th at the default schedule. The counts depend on the versions of
Python and torch alone. PYTHONPATH may name another checkout.
"""

import collections
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer

import lngd
from lngd_bench.competitors.muon import MuonWithAdamW
from lngd_bench.studies.overhead.on_paper import Counter

ORDINARY = 25
"""Steps before the one that is counted."""
WIDTH, LAYERS, CLASSES, BATCH = 128, 9, 10, 64
MORE = 20, 30
"""Layers of the two nets whose operations are compared."""
PACKAGE = str(Path(lngd.__file__).parent) + os.sep
Build = Callable[[nn.Module], Optimizer]

OURS: Mapping[str, Build] = {"LNGD": lngd.LNGD, "SpectralLNGD": lngd.SpectralLNGD}
EVERYONE: Mapping[str, Build] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
    "Muon with AdamW": lambda model: MuonWithAdamW(model, lr=0.01),
    **OURS,
}


def python_calls_of(work: Callable[[], object]) -> collections.Counter[tuple[str, str]]:
    """How often each of the package's functions was called, by file and name."""
    calls: collections.Counter[tuple[str, str]] = collections.Counter()

    def see(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls[code.co_filename, code.co_qualname] += 1

    sys.setprofile(see)
    work()
    sys.setprofile(None)
    return calls


class Training:
    """A perceptron and its optimizer, in front of an ordinary step."""

    def __init__(self, layers: int, build: Build) -> None:
        torch.manual_seed(0)
        hidden = [each for _ in range(layers - 1) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
        self.optimizer = build(self.model)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(BATCH, WIDTH, generator=generator)
        self.y = torch.randint(CLASSES, (BATCH,), generator=generator)
        for _ in range(ORDINARY):
            self.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        """A whole training step."""
        self.forward_and_backward()
        self.optimizer.step()

    def forward_and_backward(self) -> None:
        """New gradients."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y).backward()

    def counted(self) -> tuple[int, int]:
        """Operations of a step: of its forward and backward pass, and of the optimizer."""
        with Counter() as before:
            self.forward_and_backward()
        with Counter() as step:
            self.optimizer.step()
        return before.operators, step.operators


def python_calls() -> Iterator[tuple[tuple[str, str], int]]:
    """Of a net of two layers: what someone reads who follows a step."""
    for name, build in OURS.items():
        training = Training(2, build)
        calls = python_calls_of(training.step)
        yield ("Python calls, 2 layers", name), calls.total()
        yield ("functions, 2 layers", name), len(calls)
        yield ("files, 2 layers", name), len({file for file, _ in calls})


def operations() -> Iterator[tuple[tuple[str, str], int]]:
    """Of a net of nine layers: what a device is asked to do."""
    for name, build in EVERYONE.items():
        before, step = Training(LAYERS, build).counted()
        yield (f"operations, {LAYERS} layers, forward and backward", name), before
        yield (f"operations, {LAYERS} layers, optimizer's step", name), step
        yield (f"operations, {LAYERS} layers, in all", name), before + step


def growth() -> Iterator[tuple[tuple[str, str], int]]:
    """What layers of one shape add, beyond their forward and backward pass without an optimizer."""
    bare = [Training(layers, EVERYONE["SGD"]).counted()[0] for layers in MORE]
    for name, build in EVERYONE.items():
        found = [sum(Training(layers, build).counted()) for layers in MORE]
        what = f"operations of {MORE[1] - MORE[0]} layers more, beyond forward and backward"
        yield (what, name), found[1] - found[0] - (bare[1] - bare[0])


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    rows = [[*key, count] for key, count in (*python_calls(), *operations(), *growth())]
    print(tabulate(rows, ["what", "optimizer", "now"], "pipe"))


if __name__ == "__main__":
    main()
