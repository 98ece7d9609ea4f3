"""What a step costs on paper: operations and memory traffic from shapes, made seconds by what this machine can do.

With i inputs and o outputs of a layer, s positions, n samples of which r measure the rate: a training step is 3 · 2·n·s·i·o
operations, preconditioning by a dense factor 2·o·i², so i/(3·n·s) of a step; the rate's forward of r samples is r/(3n) of one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lngd_bench.studies.overhead.machine import Machine
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.tasks.scoring import mean_cross_entropy

FLOAT = 4
"""Bytes."""
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
FREE = ("empty", "new_empty", "empty_like", "detach", "t", "_unsafe_view")
"""Operators that touch no memory and are no views to torch."""


@dataclass(frozen=True)
class Work:
    """Operations (a multiplication and an addition are two) by kind, and bytes read and written."""

    products: float = 0.0
    convolutions: float = 0.0
    factorisations: float = 0.0
    traffic: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, factor: float) -> "Work":
        return Work(*(factor * part for part in self.parts))

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """All four."""
        return self.products, self.convolutions, self.factorisations, self.traffic

    @property
    def operations(self) -> float:
        """Of all kinds."""
        return sum(self.parts[:3])

    def milliseconds(self, machine: Machine) -> float:
        """One after the other: operations at their rates, and traffic at the bandwidth."""
        rates = (machine.products, machine.convolutions, machine.factorisations, machine.bandwidth)
        return 1e3 * sum(part / rate for part, rate in zip(self.parts, rates, strict=True))


@dataclass(frozen=True)
class LayerShape:
    """A linear layer's or convolution's sizes. `inputs` and `outputs` are of a group; the bias counts among the inputs.

    Args:
        positions: of a sample, at the output.
        pixels: of a sample, at the input.
    """

    name: str
    inputs: int
    outputs: int
    groups: int
    positions: int
    pixels: int
    convolution: bool

    @property
    def numbers(self) -> int:
        """Of the gradient."""
        return self.groups * self.inputs * self.outputs

    def forward(self, samples: int) -> Work:
        """Of the layer's product alone."""
        operations = 2.0 * samples * self.positions * self.numbers
        return Work(convolutions=operations) if self.convolution else Work(products=operations)


class Counter(TorchDispatchMode):
    """Adds up what the operators inside it do; tensors may be on the meta device, which computes nothing."""

    def __init__(self, *, products: bool = True) -> None:
        """`products`: whether matrix products and convolutions count; they are the operators with operations."""
        super().__init__()
        self.work, self.products = Work(), products

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator."""
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry and not self.products:
            return out
        if not (func.is_view or func.overloadpacket.__name__ in FREE):
            self.work += Work(traffic=float(sum(t.nbytes for t in _tensors((args, out)))))
        if func.overloadpacket in flop_registry:
            self.work += self._operations(func, args, kwargs or {}, out)
        return out

    @staticmethod
    def _operations(func: Any, args: Any, kwargs: Any, out: Any) -> Work:
        operations = float(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
        return Work(convolutions=operations) if func.overloadpacket in CONVOLUTIONS else Work(products=operations)


def forward_and_backward(workload: Workload) -> Work:
    """Of a whole batch, from shapes: nothing is computed."""
    with torch.device("meta"):
        model = workload.network.build(workload.width)
    inputs, targets = workload.batch_of_data()
    with Counter() as counter:
        outputs = model(*(x.to("meta") for x in inputs))
        mean_cross_entropy(outputs, targets.to("meta")).backward()
    return counter.work


def layer_shapes(model: nn.Module, one_sample: tuple[Tensor, ...]) -> list[LayerShape]:
    """Every linear layer and convolution as a forward of one sample meets it; a second call adds to a layer's positions."""
    found: dict[str, LayerShape] = {}

    def see(name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        shape = _shape(name, module, x, output)
        found[name] = _twice(found[name], shape) if name in found else shape

    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: see(name, module, args[0], output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(*one_sample)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return [*found.values()]


def _shape(name: str, module: nn.Module, x: Tensor, output: Tensor) -> LayerShape:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    weight = module.weight
    inputs, outputs = weight[0].numel() + (module.bias is not None), len(weight) // groups
    pixels = math.prod(x.shape[-2:]) if isinstance(module, nn.Conv2d) else x.numel() // weight.shape[1]
    positions = output.numel() // len(weight)
    return LayerShape(name, inputs, outputs, groups, positions, pixels, isinstance(module, nn.Conv2d))


def _twice(first: LayerShape, second: LayerShape) -> LayerShape:
    sums = first.positions + second.positions, first.pixels + second.pixels
    return LayerShape(first.name, first.inputs, first.outputs, first.groups, *sums, first.convolution)


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, tuple | list):
        for each in thing:
            yield from _tensors(each)
