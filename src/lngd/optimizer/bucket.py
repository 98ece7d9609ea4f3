"""The step of all layers, Algorithm 1 line by line, for many layers at once.

A layer's own part of a step is a few matrix products; the rest, averages, rates, norms, is a handful of numbers a layer. Layers
that agree in device, dtype and hyperparameters share a bucket, whose numbers are vectors: what a step costs in calls, of Python
or of kernels, then hardly depends on the number of layers. A bucket is small, so that a step never holds much more than one
layer's direction.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch

from lngd.capture import RateSample
from lngd.linalg import choose
from lngd.optimizer.add import add_steps
from lngd.optimizer.layer_state import LayerState, Recipe
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.scale_invariance import norms_kept, observes
from lngd.stepsize import Moves, State, gathered
from lngd.types import Flag, GradientMatrices, Scalar, Vector

LARGEST = 2**22
"""Entries of all gradients of a bucket of more than one layer."""
Samples = Mapping[str, list[RateSample]]


@dataclass(frozen=True)
class Bucket:
    """Layers that agree in everything but their shapes, by name."""

    layers: dict[str, LayerState]

    @cached_property
    def members(self) -> list[LayerState]:
        return list(self.layers.values())

    @property
    def recipe(self) -> Recipe:
        """All layers' own."""
        return self.members[0].recipe

    @property
    def states(self) -> list[State]:
        """What each layer keeps."""
        return [member.state for member in self.members]

    @property
    def beta(self) -> float:
        """Of the momentum."""
        return self.members[0].groups[0]["momentum"]

    def moves(self, warmup: float, accept: Flag, rates: Samples, scale: LossScale) -> Moves:
        """Where to: M, d = F̂⁻¹M, dᵀFd (LNGD Algorithm 1, lines 11–12).

        Args:
            warmup: the share of lr that this step may use.
            accept: where false, no state changes.
            rates: what was caught for the rates.
            scale: what their gradients are multiplied with.
        """
        first = self.members[0]
        accept = accept.to(first.layer.weight.device)
        gradients = [choose(accept, member.layer.gradient(), 0.0) for member in self.members]
        averages = self.recipe.momentum.before(gradients, self.beta, self.states, accept)
        directions = [member.direction(average) for member, average in zip(self.members, averages, strict=True)]
        curvature = self._curvature(directions, rates, scale)
        lr = warmup * max(group["lr"] for group in first.groups)
        return Moves(gradients, averages, directions, curvature, accept, lr, self._summed(directions))

    def step(self, moves: Moves, warmup: float, common: Scalar | None, *, observe: bool) -> None:
        """How far: α_l, W ← W − lr·α_l·d (LNGD Algorithm 1, lines 13–16).

        Args:
            moves: of this step.
            warmup: the share of lr that this step may use.
            common: the factor of all layers' rates.
            observe: whether to look which layers are scale-invariant.
        """
        layers = [member.layer for member in self.members]
        rates = self.recipe.step_size.rate(moves, self.states)
        if common is not None:
            rates = rates * common.to(rates.device)
        for member, rate in zip(self.members, torch.where(moves.accept, rates, 0.0).unbind(), strict=True):
            member.rate = rate
        kept = norms_kept(layers, moves, self.states, observe=observe) if self.recipe.keep_norms else nullcontext()
        with kept:
            self._apply(moves, warmup, rates)

    def _apply(self, moves: Moves, warmup: float, rates: Vector) -> None:
        columns = zip(*(m.layer.split(d) for m, d in zip(self.members, moves.directions, strict=True)), strict=True)
        for place, (directions, group) in enumerate(zip(columns, self.members[0].groups, strict=True)):
            steps = list(directions), -warmup * group["lr"] * rates  # lr belongs inside ζ: momentum keeps the rate of its time
            steps = self.recipe.momentum.after(steps, self.beta, self.states, f"momentum_{place}", moves.accept)
            parameters = [member.layer.parameters[place] for member in self.members]
            add_steps(parameters, steps, moves.accept, shrink=group["lr"] * group["weight_decay"])

    def _curvature(self, directions: GradientMatrices, rates: Samples, scale: LossScale) -> Vector | None:
        """dᵀFd of each layer; NaN without samples."""
        layers = zip(self.layers.items(), directions, strict=True)
        found = [member.curvature(d, rates.get(name, [])) for (name, member), d in layers]
        if all(value is None for value in found):
            return None
        unknown = directions[0].new_full((), torch.nan)
        curvature = torch.stack([unknown if value is None else value.to(unknown.dtype) for value in found])
        return curvature * scale.of_squares(curvature.device)

    def _summed(self, directions: GradientMatrices) -> Vector | None:
        if self.recipe.mean_over != "none":
            return None
        return gathered(self.states, "summed", directions[0].new_empty(len(directions)), missing=1.0)


def buckets(states: Mapping[str, LayerState]) -> Iterator[Bucket]:
    """All layers, those of a kind together as far as they are small; in an order that depends on nothing else."""
    kinds: dict[Hashable, dict[str, LayerState]] = {}
    for name, state in states.items():
        kinds.setdefault(_kind(state), {})[name] = state
    for alike in kinds.values():
        for _, members in groupby(_numbered(alike), key=lambda numbered: numbered[0]):
            yield Bucket({name: alike[name] for _, name in members})


def _kind(state: LayerState) -> Hashable:
    """What layers of one bucket agree in."""
    layer = state.layer
    groups = tuple((group["lr"], group["weight_decay"], group["momentum"]) for group in state.groups)
    return layer.weight.device, layer.weight.dtype, layer.dtype, groups


def _numbered(alike: Mapping[str, LayerState]) -> Iterator[tuple[int, str]]:
    """Each layer with the number of its bucket among those of its kind."""
    number, held = 0, 0
    for name, state in alike.items():
        size = state.layer.groups * state.layer.outputs * state.layer.inputs
        if held and held + size > LARGEST:
            number, held = number + 1, 0
        held += size
        yield number, name


@torch.no_grad()
def step_layers(
    states: Mapping[str, LayerState],
    *,
    number: int,
    warmup: float,
    accept: Flag,
    rates: Samples,
    scale: LossScale,
) -> None:
    """Steps every layer, bucket by bucket; a joint step size sees all directions first. `number`: of the step, from 0."""
    if not states:
        return
    step_size = next(iter(states.values())).recipe.step_size
    chosen = list(buckets(states))
    moves: Iterable[Moves] = (bucket.moves(warmup, accept, rates, scale) for bucket in chosen)
    if step_size.joint:
        moves = list(moves)
    observe = observes(number)
    common = step_size.common(moves) if isinstance(moves, Sequence) else None
    for bucket, each in zip(chosen, moves, strict=True):
        bucket.step(each, warmup, common, observe=observe)
