"""The amortised cost of a step of ours over SGD's, on paper: operations and traffic of each stage from its blocks' shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from lngd.capture import LEAST_ROWS
from lngd.linalg.polar import QUINTICS
from lngd.optimizer import NaturalGradient, Recipe
from lngd.sampling import Sampled
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.overhead.flops import FLOAT, Counter, LayerShape, Work, forward_and_backward, layer_shapes
from lngd_bench.studies.overhead.machine import Machine
from lngd_bench.studies.overhead.overhead import build
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.tasks.scoring import mean_cross_entropy

PROBE = 256
"""Inputs and outputs of the layer on which passes over a gradient are counted."""
MOMENTS = 10 / 16
"""The share of Σ a aᵀ that is multiplied; the rest is its mirror image (`lngd.linalg.second_moments`)."""
ROW_PASSES = 5
"""Over the rows of activations when Σ w a aᵀ is made: written out, weighted, read, squared for their norms."""
OUTPUT_PASSES = 5
"""Over g: made, squared, summed over outputs and over rows."""
KERNEL_SAMPLES = 16
"""Those that measure the factor over a kernel's places."""
POLAR_PRODUCTS = 2 * len(QUINTICS) - 1 + 2 * (len(QUINTICS) - 1)
"""k×k products of a spectral step: a square and a factor of the root each iteration, two more unless it is the last."""

Shapes = Mapping[str, tuple[int, ...]]


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
        numbers = self.shape.numbers
        return Work(products=sum(2.0 * numbers * shape[-1] for shape in dense(self.inverses)))

    def rate(self) -> Work:
        """The direction applied to r samples, and g met with that; nothing where no sample measures the rate."""
        step_size = self.recipe.step_size
        wanted = step_size.sequences() if self.recipe.mean_over == "token" else step_size.samples
        if wanted == 0:
            return Work()
        samples = self.batch if wanted is None else min(self.batch, wanted)
        outputs = samples * self.shape.positions * self.shape.outputs * self.shape.groups
        return self.shape.forward(samples) + Work(traffic=OUTPUT_PASSES * FLOAT * outputs)

    def apply(self) -> Work:
        """Passes over the gradient."""
        return Work(traffic=self.passes * FLOAT * self.shape.numbers)

    def measure(self) -> Work:
        """Second moments of every sample and position, and what is read and written for them."""
        samples = self._measured()
        rows, groups = samples * self.shape.positions, self.shape.groups
        products = sum(MOMENTS * 2.0 * groups * self._moments(name, shape) for name, shape in self.statistics.items())
        unfolded = not any("kernel" in name for name in self.statistics)
        inputs = self.shape.inputs * rows if unfolded else samples * self.shape.pixels * self._channels()
        traffic = FLOAT * groups * (ROW_PASSES * inputs + OUTPUT_PASSES * rows * self.shape.outputs)
        return Work(products=products, traffic=traffic)

    def refresh(self) -> Work:
        """b³/3 for a Cholesky factor of b×b and 2b³/3 for the inverse from it."""
        factors = dense(self.inverses)
        cubes = sum(float(shape[-1]) ** 3 * (shape[0] if len(shape) > 2 else 1) for shape in factors)
        return Work(factorisations=self.shape.groups * cubes)

    def orthogonalise(self) -> Work:
        """P Mᵀ, the iterations on what is k×k, and a product with P."""
        small, large = sorted((self.shape.inputs, self.shape.outputs))
        return Work(products=self.shape.groups * (4.0 * small**2 * large + POLAR_PRODUCTS * 2.0 * small**3))

    def _moments(self, name: str, shape: tuple[int, ...]) -> float:
        """Multiplications of Σ x xᵀ: rows times numbers kept."""
        if not is_dense(shape):
            return 0.0
        kept = float(shape[-1] * shape[-1] * (shape[0] if len(shape) > 2 else 1))
        if "kernel" in name:
            return min(self._measured(), KERNEL_SAMPLES) * self.shape.positions * self._channels() * kept
        return self._measured() * kept * (self.shape.pixels if "channels" in name else self.shape.positions)

    def _measured(self) -> int:
        """Samples of a batch."""
        wanted = self.recipe.schedule.samples
        return self.batch if wanted is None else min(self.batch, max(wanted, -(-LEAST_ROWS // self.shape.positions)))

    def _channels(self) -> int:
        """Of a convolution's group, from the factors over channels and kernel."""
        return max(1, self.shape.inputs // max((s[-1] for n, s in self.statistics.items() if "kernel" in n), default=1))


def predict(workload: Workload, methods: Sequence[str], machine: Machine) -> dict[str, Prediction]:
    """Of the methods that are ours; others have no prediction."""
    network = forward_and_backward(workload)
    found = {method: _of_method(workload, method, network, machine) for method in methods if method in OPTIMIZERS}
    return {method: prediction for method, prediction in found.items() if prediction is not None}


def is_dense(shape: tuple[int, ...]) -> bool:
    """Whether it is a square matrix, or several."""
    return len(shape) > 1 and shape[-1] == shape[-2]


def dense(shapes: Shapes) -> list[tuple[int, ...]]:
    """The square matrices among the shapes."""
    return [shape for shape in shapes.values() if is_dense(shape)]


def _of_method(workload: Workload, method: str, network: Work, machine: Machine) -> Prediction | None:
    model = workload.model()
    optimizer = build(method, model, workload.mean_over)
    if not isinstance(optimizer, NaturalGradient):
        return None
    layers = layers_of(method, optimizer, layer_shapes(model, workload.network.inputs(1)), workload.batch)
    optimizer.close()
    work = _stages(layers, network, optimizer)
    if optimizer.recipe.spectral:
        work["orthogonalise"] = sum((layer.orthogonalise() for layer in layers), Work())
    sgd = Work(traffic=passes("sgd") * FLOAT * sum(p.numel() for p in model.parameters()))
    stages = {stage: each.milliseconds(machine) for stage, each in work.items()}
    return Prediction(network.milliseconds(machine), sgd.milliseconds(machine), stages)


def _stages(layers: Sequence[Layer], network: Work, optimizer: NaturalGradient) -> dict[str, Work]:
    """Amortised. A pass between layers touches what a backward pass touches; a whole one multiplies as a forward does, too."""
    schedule = optimizer.recipe.schedule
    often, seldom = 1 / schedule.curvature_every, 1 / schedule.inverse_every
    backward = Work(traffic=network.traffic / 3)
    if isinstance(optimizer.fisher, Sampled):
        backward = network * (1 / 3)
    return {
        "measure": (sum((layer.measure() for layer in layers), Work()) + backward) * often,
        "refresh": sum((layer.refresh() for layer in layers), Work()) * seldom,
        "precondition": sum((layer.precondition() for layer in layers), Work()),
        "rate": sum((layer.rate() for layer in layers), Work()),
        "apply": sum((layer.apply() for layer in layers), Work()),
    }


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


def layers_of(method: str, optimizer: NaturalGradient, shapes: Sequence[LayerShape], batch: int) -> list[Layer]:
    """Those with curvature."""
    count, found = passes(method), []
    for shape in shapes:
        if shape.name in optimizer.blocks:
            block = optimizer.blocks[shape.name]
            kept = block.shapes(shape.inputs, shape.outputs)
            statistics, inverses = ({name: kept[name] for name in names} for names in (block.statistics, block.inverses))
            found.append(Layer(shape, statistics, inverses, batch, optimizer.recipe, count))
    return found
