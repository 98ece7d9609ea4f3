"""One layer in training: its block, what is measured for it, and its state, which stands in `optimizer.state[weight]`.

The block works on attributes of its own; `publish` puts the same tensors into the state after each change, `adopt` takes them out
of it after a checkpoint was loaded. What a layer keeps has its final shape from the start, so that distributed checkpoints know
the layout before the first step.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lngd.curvature import CurvatureBlock
from lngd.layers import ConvLayer, ExpertsLayer, Layer, filled
from lngd.linalg import Damping, NotPositiveDefiniteError
from lngd.optimizer.guards import Guard
from lngd.optimizer.hyperparameters import Recipe
from lngd.optimizer.parameters import Group
from lngd.optimizer.shards import ShardedLayer, distributed_alike, zeros_alike
from lngd.sampling import Calls, FisherType, fisher_weight
from lngd.torch_private import is_shard
from lngd.types import GradientMatrix, Gradients, joined
from lngd.warned import warn

State: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[tuple[int, ...], torch.dtype] | None
"""Shape and dtype of a tensor; None for a whole number."""
Layout: TypeAlias = dict[str, Place]
SEES_DATA = "its inputs are the data: damped more, see Factors(raw_damping=)"
MEETS_TARGETS = "its outputs meet the targets: damped more there, see Factors(raw_damping=)"
DATA_IN, DATA_OUT = 1, 2
"""Bits of the counter "raw"."""
COUNTERS = ("updates", "ready", "owed", "failed", "promoted", "raw")
"""Measurements so far; whether there are inverses; whether a refresh is owed; refreshes that failed in a row; whether all is kept
in float64; which of its sides meets the data themselves."""
MOST_FAILURES = 10
"""Refreshes that may fail in a row before training on old inverses is an error."""
MORE_DAMPING = (1.0, 10.0, 100.0)
"""What the damping is multiplied with, in turn, until a refresh succeeds."""
POLAR_PRODUCTS, POLAR_PRODUCTS_CPU = 13, 3
"""Square products that a polar factor takes, or as long as which, about."""
LEAST_DAMPING = 1e-6
"""What counts as damping in the second try if there is none: above the rounding error of a float32 factor."""


@dataclass
class Measurement:
    """What the forwards since the last step have measured, a mean over their samples."""

    means: tuple[Tensor, ...] = ()
    samples: int = 0
    tokens: int = 0
    """Samples times positions."""
    largest: int = 0
    longest: int = 0
    """Samples and positions of the running forward."""
    forward_id: int = -1
    fisher: FisherType | None = None
    """Where g came from, which is not always the optimizer's own Fisher type; None as long as there is none."""

    def add(self, measured: tuple[Tensor, ...], n: int, positions: int, forward_id: int) -> None:
        """Adds a mean over n samples. A second call in the same forward adds to the same samples, as further positions would."""
        if forward_id != self.forward_id:
            self.forward_id, self.largest, self.longest = forward_id, 0, 0
        before, counted = self.samples, self.largest * self.longest
        self.samples += max(0, n - self.largest)
        self.largest, self.longest = max(self.largest, n), max(self.longest, positions)
        self.tokens += self.largest * self.longest - counted
        share, new = before / self.samples, n / self.samples
        self.means = tuple(m * share + x * new for m, x in zip(self.means, measured, strict=True)) if self.means else measured


class CurvedLayer:
    """A layer with its curvature.

    Args:
        name: of its module.
        layer: the adapter.
        block: its Fisher block.
        recipe: what all layers share.
        since: the first step whose forward it can have seen.
    """

    def __init__(self, name: str, layer: Layer, block: CurvatureBlock, recipe: Recipe, since: int) -> None:
        self.name, self.layer, self.block, self.recipe, self.since = name, layer, block, recipe, since
        block.shape = layer.outputs, layer.inputs
        self.parameters = layer.parameters
        """Weight first."""
        self.shards = ShardedLayer(layer) if is_shard(layer.weight) else None
        """What of it lies in this process; None if all of it does."""
        self._shapes = [p.shape for p in self.parameters]
        self.states: list[State] = []
        """Of each parameter, weight first."""
        self.groups: list[Group] = []
        """The parameter group of each."""
        self.average: Tensor | None = None
        """M as a matrix, whose parts stand in the states; None where the layout has no such view or nothing is averaged."""
        self.ready = False
        """Whether there are inverses."""
        self.alpha: Tensor | None = None
        """α_l of the last step."""
        self.pending = Measurement()

    def fits(self, layer: Layer) -> bool:
        """Whether it is the same layer: of the same module, with the same parameters in the same shapes."""
        pairs = itertools.zip_longest(self.parameters, layer.parameters)
        same = self.layer.module is layer.module and self.layer.also == layer.also and all(p is q for p, q in pairs)
        return same and self._shapes == [p.shape for p in self.parameters]

    def bind(self, states: Sequence[State], groups: Sequence[Group]) -> None:
        """Takes its parameters' states and groups; a state that is not this layer's starts anew."""
        self.states, self.groups = list(states), list(groups)
        layouts = layout(self.layer, self.block, self.recipe)
        if not all(fits_layout(state, wanted) for state, wanted in zip(states, layouts, strict=True)):
            for state, wanted, p in zip(states, layouts, self.parameters, strict=True):
                rows = self.recipe.tensors if is_shard(p) else ()
                state.clear()
                state.update({name: zeros(place, p.device) for name, place in wanted.items() if name not in rows})
                state.update({name: zeros_alike(p, self.layer.dtype) for name in rows})
        self.adopt()

    def adopt(self) -> None:
        """Takes everything out of the states, on the layer's device and in its dtype."""
        own = self.states[0]
        self.layer.least_dtype = torch.float64 if own["promoted"] else torch.float32
        device, dtype = self.layer.weight.device, self.layer.dtype
        for state, p in zip(self.states, self.parameters, strict=True):
            for name, t in state.items():
                if isinstance(t, Tensor):
                    t = distributed_alike(t, p) if name in self.recipe.tensors else t
                    state[name] = t.to(device, dtype if t.is_floating_point() else t.dtype)
        names = (*self.block.statistics, *(self.block.inverses if own["ready"] else ()))
        self.block.load(own["updates"], {name: own[name] for name in names} if own["updates"] else {})
        if "average" in own and self.shards is None:
            matrix = self.layer.matrix([state["average"] for state in self.states])
            parts = self.layer.split(matrix)
            self.average = None
            if all(part.untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr() for part in parts):
                self.average = matrix
                for state, part in zip(self.states, parts, strict=True):
                    state["average"] = part
        self.ready = self.block.ready

    def publish(self) -> None:
        """Puts the block's tensors into the state."""
        self.ready = self.block.ready
        self.states[0].update(self.block.tensors(), updates=self.block.updates, ready=int(self.ready))

    def move_average(self, matrix: GradientMatrix) -> None:
        """M has got another place, with the same entries."""
        self.average = matrix
        for state, part in zip(self.states, self.layer.split(matrix), strict=True):
            state["average"] = part

    def stand_alone(self) -> None:
        """Takes what it keeps out of the tensors that it has shared with layers like it, which would last as long as it does."""
        if self.average is not None and _is_part(self.average):
            self.move_average(self.average.clone())
        parts = {name: t for name, t in self.block.tensors().items() if _is_part(t)}
        for name, t in parts.items():
            setattr(self.block, name, t.clone())
        if parts:
            self.publish()

    def direction(self, average: GradientMatrix, block: CurvatureBlock | None = None) -> GradientMatrix:
        """d = F̂⁻¹M, for the spectral step with its singular values set to one.

        Args:
            average: M.
            block: that of several layers like this one, whose M then is `[layers, o, i]`.
        """
        block = block or self.block
        return block.orthogonalise(average) if self.recipe.spectral else block.precondition(average)

    @property
    def by_rows(self) -> bool:
        """Whether a row of d depends on that row of M alone."""
        return self.block.by_rows and not self.recipe.spectral

    @property
    def step_cost(self) -> int:
        """How the work of `direction` compares among layers."""
        small, large = sorted((self.layer.outputs, self.layer.inputs))
        if self.recipe.spectral:  # most of it are products of square matrices
            products = POLAR_PRODUCTS_CPU if self.layer.weight.device.type == "cpu" else POLAR_PRODUCTS
            return self.layer.groups * small**2 * (2 * large + products * small)
        return self.layer.groups * small * large * (small + large)

    def has_gradient(self) -> bool:
        """Whether there is anything to do."""
        return any(p.grad is not None for p in self.parameters)

    @torch.no_grad()
    def measured(self, calls: Calls, batch: int, forward_id: int, fisher: FisherType) -> Callable[[], None]:
        """Measures the calls of one forward on the same samples, `batch` of them: further calls are further positions.

        Returns what adds it to `pending`.
        """
        with torch.autocast(calls[0][0].device.type, enabled=False):
            if isinstance(self.layer, ExpertsLayer):
                found, positions = self._measure_experts(self.layer, calls, batch)
            else:
                found = [self.block.measure(a, g) for a, g in self._operands(calls)]
                positions = max(g[0].numel() for _, g in calls) // (self.layer.outputs * self.layer.groups)

        def add() -> None:
            self.pending.fisher = fisher
            for means in found:
                self.pending.add(means, batch, positions, forward_id)

        return add

    def _measure_experts(self, layer: ExpertsLayer, calls: Calls, batch: int) -> tuple[list[tuple[Tensor, ...]], int]:
        """Rows of all experts; a row is a sample, and all rows together are positions of the batch's samples."""
        x, g = torch.cat([x for x, _ in calls]), torch.cat([g for _, g in calls])
        if not layer.multiplied(x).any():
            return [], 0
        a, grads, experts, counts = layer.by_expert(x, g)
        found, most = [], a.shape[1]
        for mean, squares in zip(self.block.measure(a, grads), self.block.quadratic, strict=True):
            found.append(layer.placed(mean, experts, most / batch if squares else most / counts))
        return [tuple(found)], math.ceil(int(counts.sum()) / batch)

    def _operands(self, calls: Calls) -> Iterator[tuple[Any, Gradients]]:
        """What the block measures: all calls as one, or each call's patches."""
        layer = self.layer
        if self.block.takes_patches and isinstance(layer, ConvLayer):
            yield from ((layer.patches(x), layer.gradients(g)) for x, g in calls)
        else:
            yield joined([layer.activations(x) for x, _ in calls]), joined([layer.gradients(g) for _, g in calls])

    @property
    def note(self) -> str:
        """Why it is damped otherwise than the others."""
        sides = ((DATA_IN, SEES_DATA), (DATA_OUT, MEETS_TARGETS))
        return "; ".join(text for side, text in sides if self._damping_factor(side) != 1)

    def _damping_factor(self, side: int) -> float:
        """What its damping is multiplied with for a side that meets the data."""
        return float(self.recipe.factors.raw_damping or 1.0) if self.states[0]["raw"] & side else 1.0

    def at_scale(self, guard: Guard) -> tuple[Tensor, ...]:
        """What was measured, at the Fisher matrix's scale; nothing where nothing was."""
        pending, mean_over = self.pending, self.recipe.mean_over
        if not pending.samples:
            return ()
        fisher = pending.fisher
        assert fisher is not None
        weight: float | Tensor = fisher_weight(
            fisher, mean_over, batch=pending.samples, positions=pending.tokens / pending.samples
        )
        if fisher is FisherType.EMPIRICAL:
            weight = weight * guard.of_squares(pending.means[0].device)
        return self.block.weighted(pending.means, weight)

    def take_measurement(self, measured: tuple[Tensor, ...], *, raw: bool, last: bool, samples: float) -> None:
        """F ← ϵF + (1−ϵ)F_new (LNGD eq. 14).

        Args:
            measured: F_new.
            raw: the inputs are the data themselves.
            last: the loss reads the outputs.
            samples: of how many the loss is a sum, if it is one.
        """
        found = tuple(map(filled, measured)) if isinstance(self.layer, ExpertsLayer) else measured
        self.block.update(found, self.groups[0]["decay"])
        self.states[0]["raw"] = DATA_IN * raw + DATA_OUT * (last and self.block.damps_last_outputs)
        self.publish()
        if self.recipe.mean_over == "none":
            self.states[0]["summed"].fill_(samples)

    def promote(self) -> None:
        """Keeps everything of this layer in float64 from now on: squares of its inputs or gradients overflow float32."""
        self.states[0]["promoted"] = 1
        self.adopt()

    def refresh(self) -> None:
        """Φ̂⁻¹, Ψ̂⁻¹ from the statistics. Where a factor has none the last good ones stay.

        Raises:
            RuntimeError: MOST_FAILURES refreshes in a row have failed. A layer of which a statistic is zero, because nothing
                reaches it, is not counted: its gradient is zero too.
        """
        self.refreshed(self.has_inverses())

    def has_inverses(self) -> bool:
        """Makes Φ̂⁻¹, Ψ̂⁻¹, with more damping if it takes that; whether it could.

        Each try is one in the factor's own precision and one in float64 (`lngd.linalg.inverse`).
        """
        inside, bounds = self._damping_factor(DATA_IN), self.recipe.factors.damping_bounds
        damping, outputs = inside * self.groups[0]["damping"], self._damping_factor(DATA_OUT) if inside == 1 else 1.0
        for factor in MORE_DAMPING:
            relative = damping if factor == 1 else factor * max(damping, LEAST_DAMPING)
            try:
                self.block.refresh(Damping(relative, bounds, outputs))
            except NotPositiveDefiniteError:
                continue
            if factor > 1:
                warn(f"layer '{self.name}': its Fisher factor needed damping={float(relative):g}; raise the damping")
            return True
        return False

    def refreshed(self, made: bool) -> None:
        """The outcome of `has_inverses`, here or in another process."""
        if made:
            self.states[0]["failed"] = 0
            self.publish()
        else:
            self._failed()

    def _failed(self) -> None:
        kept = "kept the last inverse" if self.block.ready else "the layer stays as it is until it has one"
        statistics = [getattr(self.block, name) for name in self.block.statistics]
        if all(statistic.any() for statistic in statistics if statistic.numel()):
            self.states[0]["failed"] += 1
            if self.states[0]["failed"] >= MOST_FAILURES:
                raise RuntimeError(
                    f"layer '{self.name}': its Fisher factors had no inverse in {MOST_FAILURES} refreshes; raise the damping, or "
                    "give its parameters a group with curvature=False. Weights and averages are as they were before this step"
                )
        warn(f"layer '{self.name}': Fisher factor not positive definite, {kept}; raise the damping")


def _is_part(t: Tensor) -> bool:
    """Whether its memory is shared with others."""
    return t.untyped_storage().nbytes() > t.numel() * t.element_size()


def layout(layer: Layer, block: CurvatureBlock, recipe: Recipe) -> list[Layout]:
    """What the state of each of a layer's parameters holds, weight first: all names, shapes and dtypes, before any step."""
    group = (layer.groups,) if layer.groups > 1 else ()
    shapes = block.shapes(layer.inputs, layer.outputs, one_hot=layer.one_hot)
    factors = {name: ((*group, *shape) if shape else (), block.dtypes.get(name, layer.dtype)) for name, shape in shapes.items()}
    numbers: dict[str, Place] = dict.fromkeys(recipe.numbers, ((), layer.dtype))
    counters: dict[str, Place] = dict.fromkeys(COUNTERS, None)
    parts: list[Layout] = [dict.fromkeys(recipe.tensors, (tuple(p.shape), layer.dtype)) for p in layer.parameters]
    return [{**counters, **numbers, **factors, **parts[0]}, *parts[1:]]


def zeros(place: Place, device: torch.device) -> Tensor | int:
    """What stands in such a place at the start."""
    return 0 if place is None else torch.zeros(place[0], dtype=place[1], device=device)


def fits_layout(state: State, wanted: Layout) -> bool:
    """Whether a state has all names of a layout and no others, in its shapes."""
    return state.keys() == wanted.keys() and all(
        isinstance(state[name], int) if place is None else isinstance(state[name], Tensor) and state[name].shape == place[0]
        for name, place in wanted.items()
    )
