"""What each method's curvature costs: milliseconds of its kinds of step beside an SGD step, bytes of its statistics and inverses.

Conventions. Every rate is 0, so weights stay and all steps do the same work. A method is built when its turn comes and freed
after it. A step of the reference, SGD unless another is named, precedes each of the method's steps, and a reference with
curvature measures and refreshes when the method does: a ratio compares neighbours in time.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd.bench.clock import clock
from lngd.bench.models.resnet import ResNet
from lngd.bench.models.resnet18 import ResNet18
from lngd.bench.optimizers import OPTIMIZERS, Setting
from lngd.bench.scoring import mean_cross_entropy
from lngd.curvature import CurvatureBlock
from lngd.linalg import Damping
from lngd.optimizer import NaturalGradient

Kind = Literal["ordinary", "measuring", "refresh"]

METHODS = tuple(name for name in OPTIMIZERS if name != "lngd-paper")  # which is LNGD with other arguments: the same work
CLASSES = 10
SLOW_REFRESH = 20.0
"""Seconds above which one refresh is enough: its spread is small beside what methods differ in."""
DAMPING = Damping(0.3)
NEVER = 10**6
"""Steps."""


@dataclass(frozen=True)
class Network:
    """A model by its width, and one input's shape."""

    build: Callable[[int], nn.Module]
    width: int
    shape: tuple[int, ...]


MODELS: Mapping[str, Network] = {
    "resnet18": Network(ResNet18, 64, (3, 32, 32)),
    "resnet": Network(lambda width: ResNet((width, 2 * width, 4 * width)), 16, (1, 28, 28)),
}


@dataclass(frozen=True)
class Workload:
    """A model and the batch it sees at every step."""

    network: Network
    width: int
    batch: int

    @cached_property
    def x(self) -> Tensor:
        return torch.randn(self.batch, *self.network.shape, generator=torch.Generator().manual_seed(0))

    @cached_property
    def y(self) -> Tensor:
        return torch.arange(self.batch) % CLASSES

    def model(self) -> nn.Module:
        return self.network.build(self.width)


@dataclass(frozen=True)
class Timing:
    """One measurement. `reference_milliseconds`: of the reference's step right before it."""

    method: str
    kind: Kind
    round: int
    milliseconds: float
    reference_milliseconds: float

    @property
    def ratio(self) -> float:
        return self.milliseconds / self.reference_milliseconds


@dataclass(frozen=True)
class Footprint:
    """What a method keeps, bytes of all blocks and of the largest, and how many whole backward passes a measuring step makes."""

    method: str
    state_bytes: int
    largest_layer: str
    largest_bytes: int
    backward_passes: int


class Trainee:
    """A model with its optimizer, a step at a time."""

    def __init__(self, workload: Workload, optimizer: str) -> None:
        self.workload, self.model, self.backward_passes = workload, workload.model(), 0
        self.model.register_forward_hook(self._watch)
        self.optimizer = build(optimizer, self.model)

    @property
    def blocks(self) -> Mapping[str, CurvatureBlock]:
        return self.optimizer.blocks if isinstance(self.optimizer, NaturalGradient) else {}

    @property
    def updates(self) -> int:
        """Of all blocks' statistics so far: what tells a measuring step from an ordinary one."""
        return sum(block.updates for block in self.blocks.values())

    def step(self) -> float:
        """Milliseconds of forward, backward and optimizer."""
        start = clock()
        self.optimizer.zero_grad()
        mean_cross_entropy(self.model(self.workload.x), self.workload.y).backward()
        self.optimizer.step()
        return 1e3 * (clock() - start)

    @torch.no_grad()
    def refresh(self) -> float:
        """Milliseconds of making all inverses anew; without the former ones no rule can find them good enough."""
        for block in self.blocks.values():
            statistics = {name: tensor for name, tensor in block.tensors().items() if name in block.statistics}
            block.load(block.updates, statistics)
        start = clock()
        for block in self.blocks.values():
            block.refresh(DAMPING)
        return 1e3 * (clock() - start)

    def _watch(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        """Counts every backward pass that starts at the model's output, the optimizer's own included."""
        if output.requires_grad:
            output.register_hook(self._count)

    def _count(self, _gradient: Tensor) -> None:
        self.backward_passes += 1


def build(name: str, model: nn.Module) -> Optimizer:
    """At rate 0; a method with curvature measures at every second step and refreshes at the first step only."""
    optimizer = OPTIMIZERS[name].build(model, Setting(lr=0.0))
    if not isinstance(optimizer, NaturalGradient):
        return optimizer
    optimizer.close()
    method: Callable[..., Optimizer] = type(optimizer)
    return method(model, lr=0.0, fallback_lr=0.0, curvature_every=2, inverse_every=NEVER, curvature_ramp=False)


def measure(methods: list[str], workload: Workload, rounds: int, against: str = "sgd") -> Iterator[Timing | Footprint]:
    """One method after the other, what it costs and then what it keeps."""
    reference = Trainee(workload, against)
    reference.step()
    for method in methods:
        yield from _measured(method, workload, reference, rounds)
        gc.collect()


def footprint(method: str, trainee: Trainee) -> Footprint:
    """After the first step."""
    sizes = {name: sum(tensor.nbytes for tensor in block.tensors().values()) for name, block in trainee.blocks.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return Footprint(method, sum(sizes.values()), largest, sizes.get(largest, 0), trainee.backward_passes)


def _measured(method: str, workload: Workload, reference: Trainee, rounds: int) -> Iterator[Timing | Footprint]:
    trainee = Trainee(workload, method)
    trainee.step()  # allocates, measures, refreshes
    yield footprint(method, trainee)
    refresh = bool(trainee.blocks)
    for number in range(rounds):
        for kind, milliseconds, beside in _steps(trainee, reference):
            yield Timing(method, kind, number, milliseconds, beside)
        if refresh:
            beside = reference.refresh() if reference.blocks else reference.step()
            milliseconds = trainee.refresh()
            yield Timing(method, "refresh", number, milliseconds, beside)
            refresh = max(milliseconds, beside) < 1e3 * SLOW_REFRESH


def _steps(trainee: Trainee, reference: Trainee) -> Iterator[tuple[Kind, float, float]]:
    """An ordinary step and, with curvature, a measuring one, each behind the reference's; pairs of unlike kinds don't count."""
    for _ in range(2 if trainee.blocks or reference.blocks else 1):
        before = trainee.updates, reference.updates
        beside, milliseconds = reference.step(), trainee.step()
        measured, reference_measured = trainee.updates != before[0], reference.updates != before[1]
        if measured == reference_measured or not reference.blocks:
            yield "measuring" if measured else "ordinary", milliseconds, beside
