"""What a step costs on paper: operations and memory traffic from shapes, made seconds by what this machine can do.

With i inputs and o outputs of a layer, s positions, n samples of which r measure the rate: a training step is 3 · 2·n·s·i·o
operations, preconditioning by a dense factor 2·o·i², so i/(3·n·s) of a step; the rate's forward of r samples is r/(3n) of one.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lngd.capture import LEAST_ROWS
from lngd.linalg.moments import SMALL
from lngd.linalg.polar import POLES, QUINTICS
from lngd.optimizer import NaturalGradient, Recipe
from lngd.sampling import Sampled
from lngd_bench.clock import CPU, clock
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.overhead.timing import build
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.tasks.scoring import mean_cross_entropy

FLOAT = 4
"""Bytes."""
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
FREE = ("empty", "new_empty", "empty_like", "detach", "t", "_unsafe_view")
"""Operators that touch no memory and are no views to torch."""
PROBE = 256
"""Inputs and outputs of the layer on which passes over a gradient are counted."""
MOMENTS = 10 / 16
"""The share of a symmetric product that is multiplied; the rest is its mirror image (`lngd.linalg.symmetric_product`)."""
ROW_PASSES = 5
"""Over the rows of activations when Σ w a aᵀ is made: written out, weighted, read, squared for their norms."""
OUTPUT_PASSES = 5
"""Over g: made, squared, summed over outputs and over rows."""
KERNEL_SAMPLES = 16
"""Those that measure the factor over a kernel's places."""
POLAR_PRODUCTS = 2 * len(QUINTICS) - 1 + 2 * (len(QUINTICS) - 1)
"""k×k products of a spectral step: a square and a factor of the root each iteration, two more unless it is the last."""
REPEATS = 5
"""Of each calibration, which takes a second in all."""

Shapes = Mapping[str, tuple[int, ...]]


class Work(NamedTuple):
    """Operations (a multiplication and an addition are two) by kind, and bytes read and written."""

    products: float = 0.0
    convolutions: float = 0.0
    factorisations: float = 0.0
    traffic: float = 0.0

    def plus(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Work":
        return Work(*(factor * part for part in self))

    @property
    def operations(self) -> float:
        """Of all kinds."""
        return self.products + self.convolutions + self.factorisations

    def milliseconds(self, second: "Work") -> float:
        """One kind after the other; `second` is what the machine does in one."""
        return 1e3 * sum(part / rate for part, rate in zip(self, second, strict=True))


def total(parts: Iterator[Work]) -> Work:
    return Work(*map(sum, zip(Work(), *parts, strict=True)))


def calibrated(repeats: int = REPEATS, device: torch.device = CPU) -> Work:
    """What torch's threads, or a GPU, do in a second in float32, at sizes that layers have; medians."""
    size, channels, image, samples = 1024, 128, 16, 16
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size, size, generator=generator).to(device)
    x = torch.randn(samples, channels, image, image, generator=generator).to(device).requires_grad_()
    kernel = torch.randn(channels, channels, 3, 3, generator=generator).to(device).requires_grad_()
    spd = matrix @ matrix.T + size * torch.eye(size, device=device)
    vector, other = (
        torch.ones(2**22, device=device),
        torch.ones(2**22, device=device),
    )  # 16 MiB: no core's cache holds it, and a large layer has so many

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(1 + repeats):
            start = clock(device)
            work()
            times.append(clock(device) - start)
        return statistics.median(times[1:])

    convolved = 3 * 2.0 * samples * image**2 * channels**2 * 9
    return Work(
        2.0 * size**3 / seconds(lambda: matrix @ matrix),
        convolved / seconds(lambda: functional.conv2d(x, kernel, padding=1).sum().backward()),
        float(size**3) / seconds(lambda: torch.cholesky_inverse(torch.linalg.cholesky_ex(spd)[0])),
        3.0 * vector.nbytes / seconds(lambda: vector + other),
    )


class Counter(TorchDispatchMode):
    """Adds up what the operators inside it do; tensors may be on the meta device, which computes nothing.

    `products`: whether matrix products and convolutions count as work; they are the operators with operations.
    """

    def __init__(self, *, products: bool = True) -> None:
        super().__init__()
        self.work, self.operators, self.products = Work(), 0, products

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        multiplies = func.overloadpacket in flop_registry
        if multiplies and not self.products:
            return out
        if not (func.is_view or func.overloadpacket.__name__ in FREE):
            self.work = self.work.plus(
                Work(traffic=float(sum(t.nbytes for t in tree_leaves((args, out)) if isinstance(t, Tensor))))
            )
        if multiplies:
            count = float(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out))
            kind = "convolutions" if func.overloadpacket in CONVOLUTIONS else "products"
            self.work = self.work.plus(Work(**{kind: count}))
        return out


def forward_and_backward(workload: Workload) -> Work:
    """Of a whole batch, from shapes: nothing is computed."""
    with torch.device("meta"):
        model = workload.network.build(workload.width)
    inputs, targets = workload.batch_of_data()
    with Counter() as counter:
        outputs = model(*(x.to("meta") for x in inputs))
        mean_cross_entropy(outputs, targets.to("meta")).backward()
    return counter.work


@cache
def passes(method: str) -> float:
    """Over the gradient in an ordinary step, counted on a small layer: bytes its operators touch for each of the gradient's.

    Products are left out: they have counts of their own.
    """
    model = nn.Linear(PROBE, PROBE, bias=False)
    optimizer = build(method, model, first=1)
    for _ in range(2):
        optimizer.zero_grad()
        mean_cross_entropy(model(torch.ones(2, PROBE)), torch.arange(2)).backward()
        with Counter(products=False) as counter:
            optimizer.step()
    return counter.work.traffic / (FLOAT * PROBE**2)


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

    def forward(self, samples: float) -> Work:
        """Of the layer's product alone."""
        operations = 2.0 * samples * self.positions * self.numbers
        return Work(convolutions=operations) if self.convolution else Work(products=operations)


def layer_shapes(model: nn.Module, one_sample: tuple[Tensor, ...]) -> list[LayerShape]:
    """Every linear layer and convolution as a forward of one sample meets it; a second call adds to a layer's positions."""
    found: dict[str, LayerShape] = {}

    def see(name: str, module: nn.Linear | nn.Conv2d, x: Tensor, output: Tensor) -> None:
        convolution, weight = isinstance(module, nn.Conv2d), module.weight
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        inputs, outputs = weight[0].numel() + (module.bias is not None), len(weight) // groups
        positions = output.numel() // len(weight)
        pixels = math.prod(x.shape[-2:]) if convolution else x.numel() // weight.shape[1]
        if before := found.get(name):
            positions, pixels = before.positions + positions, before.pixels + pixels
        found[name] = LayerShape(name, inputs, outputs, groups, positions, pixels, convolution)

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


@dataclass(frozen=True)
class Layer:
    """A layer's sizes, what its block keeps, and what the optimizer's layers share."""

    shape: LayerShape
    statistics: Shapes
    inverses: Shapes
    batch: int
    recipe: Recipe
    passes: float

    def precondition(self) -> Work:
        """A dense factor of b×b on a gradient of P numbers is 2·P·b operations, however often it repeats along a side."""
        return Work(products=sum(2.0 * self.shape.numbers * shape[-1] for shape in self.inverses.values() if _is_dense(shape)))

    def rate(self) -> Work:
        """The direction applied to r samples, and g met with that; nothing where no sample measures the rate."""
        step_size = self.recipe.step_size
        wanted = step_size.sequences() if self.recipe.mean_over == "token" else step_size.samples
        if wanted == 0:
            return Work()
        samples = self.batch if wanted is None else min(self.batch, wanted)
        outputs = samples * self.shape.positions * self.shape.outputs * self.shape.groups
        seen = float(samples)
        if self.recipe.mean_over == "token" and not self.shape.convolution and (tokens := step_size.tokens()):
            seen = min(seen, tokens / self.shape.positions)
        return self.shape.forward(seen).plus(Work(traffic=OUTPUT_PASSES * FLOAT * outputs))

    def apply(self) -> Work:
        """Passes over the gradient."""
        return Work(traffic=self.passes * FLOAT * self.shape.numbers)

    def measure(self) -> Work:
        """Second moments of every sample and position, and what is read and written for them."""
        shape, groups, wanted = self.shape, self.shape.groups, self.recipe.schedule.samples
        samples = self.batch if wanted is None else min(self.batch, max(wanted, -(-LEAST_ROWS // shape.positions)))
        kernel = [sides[-1] for name, sides in self.statistics.items() if "kernel" in name]
        channels = max(1, shape.inputs // max(kernel, default=1))  # of a convolution's group
        rows = samples * shape.positions
        products = 0.0
        for name, sides in self.statistics.items():
            if _is_dense(sides):
                places = samples * (shape.pixels if "channels" in name else shape.positions)
                if "kernel" in name:
                    places = min(samples, KERNEL_SAMPLES) * shape.positions * channels
                products += MOMENTS * 2.0 * groups * places * math.prod(sides)
        inputs = samples * shape.pixels * channels if kernel else shape.inputs * rows
        traffic = FLOAT * groups * (ROW_PASSES * inputs + OUTPUT_PASSES * rows * shape.outputs)
        return Work(products=products, traffic=traffic)

    def refresh(self) -> Work:
        """b³/3 for a Cholesky factor of b×b and 2b³/3 for the inverse from it."""
        cubes = sum(float(math.prod(shape)) * shape[-1] for shape in self.inverses.values() if _is_dense(shape))
        return Work(factorisations=self.shape.groups * cubes)

    def orthogonalise(self, device: str) -> Work:
        """What is k×k, its root, by two inverses on a CPU and else by iterations, and a product with P."""
        small, large = sorted((self.shape.inputs, self.shape.outputs))
        both, cube = 4.0 * small**2 * large, float(small) ** 3
        if device == "cpu":
            both *= (1 + (MOMENTS if small >= SMALL else 1.0)) / 2
            return Work(products=self.shape.groups * both, factorisations=self.shape.groups * len(POLES) * cube)
        return Work(products=self.shape.groups * (both + POLAR_PRODUCTS * 2.0 * cube))


def _is_dense(shape: tuple[int, ...]) -> bool:
    """Whether it is a square matrix, or several."""
    return len(shape) > 1 and shape[-1] == shape[-2]


def layers_of(method: str, optimizer: NaturalGradient, shapes: Sequence[LayerShape], batch: int) -> list[Layer]:
    """Those with curvature."""
    found = []
    for shape in shapes:
        if shape.name in optimizer.blocks:
            block = optimizer.blocks[shape.name]
            kept = block.shapes(shape.inputs, shape.outputs)
            statistics, inverses = ({name: kept[name] for name in names} for names in (block.statistics, block.inverses))
            found.append(Layer(shape, statistics, inverses, batch, optimizer.recipe, passes(method)))
    return found


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a step: the network's own, SGD's update, and what ours does instead, by stage, amortised."""

    network: float
    sgd: float
    stages: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Of our step to SGD's."""
        return (self.network + sum(self.stages.values())) / (self.network + self.sgd)


def predict(workload: Workload, methods: Sequence[str], second: Work) -> dict[str, Prediction]:
    """Of the methods that are ours; others have no prediction. `second`: what the machine does in one."""
    network = forward_and_backward(workload)
    found = {}
    for method in (name for name in methods if name in OPTIMIZERS):
        model = workload.model()
        optimizer = build(method, model, workload.mean_over)
        if isinstance(optimizer, NaturalGradient):
            shapes = layer_shapes(model, workload.network.inputs(1))
            layers = layers_of(method, optimizer, shapes, workload.batch)
            stages = _stages(layers, network, optimizer, torch.device(workload.device).type)
            optimizer.close()
            sgd = Work(traffic=passes("sgd") * FLOAT * sum(p.numel() for p in model.parameters()))
            times = {stage: work.milliseconds(second) for stage, work in stages.items()}
            found[method] = Prediction(network.milliseconds(second), sgd.milliseconds(second), times)
    return found


def _stages(layers: Sequence[Layer], network: Work, optimizer: NaturalGradient, device: str) -> dict[str, Work]:
    """Amortised. A pass between layers touches what a backward pass touches; a whole one multiplies as a forward does, too."""
    schedule = optimizer.recipe.schedule
    backward = network.times(1 / 3) if isinstance(optimizer.fisher, Sampled) else Work(traffic=network.traffic / 3)
    stages = {
        "measure": total(layer.measure() for layer in layers).plus(backward).times(1 / schedule.curvature_every),
        "refresh": total(layer.refresh() for layer in layers).times(1 / schedule.inverse_every),
        "precondition": total(layer.precondition() for layer in layers),
        "rate": total(layer.rate() for layer in layers),
        "apply": total(layer.apply() for layer in layers),
    }
    if optimizer.recipe.spectral:
        stages["orthogonalise"] = total(layer.orthogonalise(device) for layer in layers)
    return stages
