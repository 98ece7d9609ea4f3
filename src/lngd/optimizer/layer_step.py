"""The step of all layers, Algorithm 1 line by line, for many layers at once.

A layer's own part of a step is a few matrix products; the rest, averages, rates, norms, is a handful of numbers a layer. Layers
that agree in device, dtype, parameter groups and in which parameters have a gradient share a bucket, whose numbers are vectors:
what a step costs in calls, of Python or of kernels, then hardly depends on the number of layers. The vectors are the bucket's;
`optimizer.state` holds views of their entries. A bucket is small, so that a step never holds much more than one layer's
direction.

A weight or a bias without a gradient stays, as with any optimizer of torch: neither it nor its average moves, and the other half
of its layer steps as if there were none.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lngd.capture import RateSample
from lngd.layers import Layer
from lngd.optimizer.curved_layer import CurvedLayer
from lngd.optimizer.guards import Guard, largest_magnitude, lr_of
from lngd.optimizer.shards import ShardedLayer, here
from lngd.optimizer.stack import stacks
from lngd.step_size import Averages, Directions, Parts, Steps
from lngd.torch_private import (
    foreach_add_,
    foreach_addcmul_,
    foreach_lerp,
    foreach_lerp_,
    foreach_mul,
    foreach_mul_,
    foreach_norm,
)
from lngd.types import Flags, GradientMatrices, Scalar, Vector

LARGEST = 2**22
"""Entries of all gradients of a bucket of more than one layer."""
Samples = Mapping[str, Sequence[RateSample]]
Active: TypeAlias = list[tuple[CurvedLayer, tuple[int, ...]]]
"""Layers that step, and the places of those of their parameters that have no gradient: 0 the weight, 1 the bias."""
ALIGNMENT_DECAY = 0.9
ALIGNED = 0.1
"""A layer is scale-invariant, in front of a normalisation, if the running mean of |cos(W, ∇)|·√dim is below this. For unrelated W
and ∇ that mean is about 0.8 at any width; there it is rounding error (`tests/optimizer/test_scale_invariance.py`)."""
AGREED = 10
"""How many observations have to agree before a norm is kept."""
OBSERVE_EVERY = 4
"""Steps between two of them after the first 2 · AGREED: they read the weight and the gradient once more."""


class Bucket:
    """Layers that step together.

    Args:
        layers: of one device, one dtype and the same parameter groups.
        resting: the places of the parameters that have no gradient.
    """

    def __init__(self, layers: Sequence[CurvedLayer], resting: tuple[int, ...] = ()) -> None:
        usable = not resting and layers[0].recipe.momentum_on != "update"
        usable &= all(each.average is not None and each.average.is_contiguous() for each in layers)
        self.stacks = stacks(layers, averaged=usable)
        self.layers, self.resting = [each for stack in self.stacks for each in stack.layers], resting
        first = layers[0]
        self.recipe, self.groups, self.dtype = first.recipe, first.groups, first.layer.dtype
        self.adapters: list[Layer | ShardedLayer] = [each.shards or each.layer for each in self.layers]
        self.split = first.shards.split_of if first.shards else None
        self.parameters: list[list[nn.Parameter]] = [
            list(p) for p in zip(*(layer.parameters for layer in self.adapters), strict=True)
        ]
        self.device, self.low_precision = first.layer.weight.device, first.layer.weight.dtype != self.dtype
        self.numbers = {name: self._joined(name) for name in self.recipe.numbers}
        self.tensors = {name: self._columns(name) for name in self.recipe.tensors}
        own = [each.layer for each in self.layers]
        self.alike = torch.tensor([(layer.groups * layer.outputs) ** 0.5 for layer in own]).to(self.device, self.dtype)
        self.sizes = [layer.weight.numel() ** 0.5 for layer in own]
        self.averages = [stack.average for stack in self.stacks if stack.average is not None]
        """M of each stack, of which the averages of weights and biases are views; none where that can't be."""
        self.matrices = [m for stack, M in zip(self.stacks, self.averages, strict=usable) for m in stack.each(M)]
        self.vectors = [m for stack, M in zip(self.stacks, self.averages, strict=usable) for m in stack.flat(M)]

    def _joined(self, name: str) -> Vector:
        """A number of each layer as one vector, of which the layers' states hold the entries from now on."""
        vector = torch.stack([each.states[0][name] for each in self.layers])
        for each, entry in zip(self.layers, vector.unbind(), strict=True):
            each.states[0][name] = entry
        return vector

    def _columns(self, name: str) -> list[list[Tensor]]:
        """A tensor of each parameter: those of all weights, then those of all biases."""
        tensors = ([here(state[name]) for state in each.states] for each in self.layers)
        return [list(column) for column in zip(*tensors, strict=True)]

    def held(self) -> list[list[Tensor]]:
        """Of each layer its parameters, as far as they lie in this process."""
        return [list(parts) for parts in zip(*(self._here(place) for place in range(len(self.parameters))), strict=True)]

    def _here(self, place: int) -> list[Tensor]:
        """All weights, or all biases, as far as they lie in this process."""
        return [here(p) for p in self.parameters[place]]

    def average_gradient(self, guard: Guard) -> Averages:
        """M ← βM + (1−β)∇ (line 10), corrected for its start at zero: M moves by the share (1−β)/(1−βᵗ) towards ∇.

        With momentum on the update M is ∇; Nesterov's is a step ahead, (1−β)∇ + βM.
        """
        gradients, recipe, beta = self._gradients(guard), self.recipe, self.groups[0]["momentum"]
        if recipe.momentum_on == "update":
            return self._as_matrices(gradients, gradients)
        share = 1 - beta if guard.readable else guard.accept.to(self.device, self.dtype) * (1 - beta)
        weight = self.numbers["average_weight"]  # 1 − βᵗ
        weight.lerp_(torch.ones_like(weight), share)
        shares = (share / weight.clamp(min=torch.finfo(weight.dtype).tiny)).unbind()
        averages: list[Sequence[Tensor]] = [*self.tensors["average"]]
        for place, (average, grads) in enumerate(zip(averages, gradients, strict=True)):
            if place not in self.resting:
                foreach_lerp_(average, list(grads), shares)
        if self.resting:
            averages = [gradients[place] if place in self.resting else average for place, average in enumerate(averages)]
        if recipe.momentum_on == "nesterov":
            return self._ahead(gradients, averages, beta)
        if not self.averages:
            return self._as_matrices(gradients, averages)
        return Averages(gradients, averages, self.matrices, self.vectors, self.averages)

    def precondition(self, averages: Averages) -> Steps:
        """d = F̂⁻¹M (line 11), for the spectral step with its singular values set to one. A layer without F̂⁻¹ waits for it."""
        found = [stack.direction(M) for stack, M in zip(self.stacks, averages.stacked, strict=True)]
        matrices = [m for stack, d in zip(self.stacks, found, strict=True) for m in stack.each(d)]
        return self.without_resting(matrices) if self.resting else Steps(matrices, self._parts(found), found)

    def aim(
        self,
        directions: Steps,
        averages: Averages,
        samples: Samples,
        *,
        warmup: float,
        measured: bool,
        guard: Guard,
    ) -> None:
        """All that the length of the step depends on.

        Args:
            directions: d.
            averages: M.
            samples: what was caught of each layer in the backward pass, by name.
            warmup: the share of lr that this step may use.
            measured: whether this step measures the curvature.
            guard: of this step.
        """
        lr = reduce(larger, [lr_of(group) for group in self.groups])
        scale = guard.squared_scale
        self.step = Directions(
            layers=[each.layer for each in self.layers],
            averages=averages,
            directions=directions.matrices,
            parts=directions.parts,
            stacked=directions.stacked,
            samples=[samples.get(each.name, ()) for each in self.layers],
            memory=self.numbers,
            tensors=self.tensors,
            accept=guard.accept.to(self.device, non_blocking=True),
            squared_scale=None if scale is None else scale.to(self.device, non_blocking=True),
            mean_over=self.recipe.mean_over,
            tokens=self.recipe.step_size.tokens(),
            lr=warmup * lr,
            summed=self.numbers.get("summed"),
            weights=self._here(0),
            alike=self.alike,
            measured=measured,
            curved=measured or self.split is None,  # of a sharded layer the whole direction is gathered once in an interval
            across=None if self.split is None else self.split.sums,
        )
        self.warmup = warmup

    def size(self, guard: Guard) -> None:
        """α_l = ⟨d,M⟩ / (dᵀFd + µ) (line 12, eqs. 12–13), or what else the step size makes of it."""
        alpha = self.recipe.step_size.alpha(self.step)
        self.alpha = alpha if guard.readable else torch.where(self.step.accept, alpha, 0.0)

    def apply(self, common: Scalar | None, *, guard: Guard, observe: bool) -> None:
        """ζ = −lr·α_l·d, m ← τm + ζ, W ← W + m (lines 13–16).

        Args:
            common: a factor of all layers' α_l.
            guard: of this step.
            observe: whether to look which layers are scale-invariant.
        """
        step, alpha = self.step, self.alpha if common is None else self.alpha * common.to(self.device)
        for each, own in zip(self.layers, alpha.unbind(), strict=True):
            each.alpha = own
        norms = step.weight_norms if self.recipe.keep_norms else None
        if observe and norms is not None:
            self._observe(step, norms)
        for place, (directions, group) in enumerate(zip(step.parts, self.groups, strict=True)):
            if place in self.resting:
                continue
            self._move(place, list(directions), -self.warmup * lr_of(group) * alpha, guard)  # lr inside ζ: m keeps its time's
        if norms is not None:
            self._keep_norms(step, norms, guard)
        del self.step  # a step holds the directions of one bucket at a time

    def _gradients(self, guard: Guard) -> Parts:
        """∇ of every parameter; zero where there is none."""
        columns: list[Sequence[Tensor]] = []
        for parameters in self.parameters:
            grads = [torch.zeros_like(here(p)) if p.grad is None else here(p.grad) for p in parameters]
            grads = [grad.to(self.dtype) for grad in grads] if self.low_precision else grads
            columns.append(grads if guard.readable else guard.kept(grads))
        return columns

    def without_resting(self, directions: GradientMatrices) -> Steps:
        """Directions that are zero where nothing moves."""
        parts = [layer.split(direction) for layer, direction in zip(self.adapters, directions, strict=True)]
        if self.resting:
            parts = [[torch.zeros_like(p) if place in self.resting else p for place, p in enumerate(own)] for own in parts]
            directions = [layer.matrix(own) for layer, own in zip(self.adapters, parts, strict=True)]
        return Steps(directions, [list(column) for column in zip(*parts, strict=True)], [])

    def _ahead(self, gradients: Parts, averages: Parts, beta: float) -> Averages:
        """(1−β)∇ + βM."""
        if not self.averages:
            ahead = [foreach_lerp(list(g), list(a), beta) for g, a in zip(gradients, averages, strict=True)]
            return self._as_matrices(gradients, ahead)
        stacked = [M.clone() for M in self.averages]
        parts = self._parts(stacked)
        for part, grads in zip(parts, gradients, strict=True):
            foreach_lerp_(part, list(grads), 1 - beta)
        return self._of_stacks(gradients, parts, stacked)

    def _as_matrices(self, gradients: Parts, parts: Parts) -> Averages:
        stacked, place = [], 0
        for stack in self.stacks:
            stacked.append(stack.whole([column[place : place + len(stack.layers)] for column in parts]))
            place += len(stack.layers)
        return self._of_stacks(gradients, parts, stacked)

    def _of_stacks(self, gradients: Parts, parts: Parts, stacked: GradientMatrices) -> Averages:
        own = list(zip(self.stacks, stacked, strict=True))
        matrices, vectors = [m for stack, M in own for m in stack.each(M)], [m for stack, M in own for m in stack.flat(M)]
        return Averages(gradients, parts, matrices, vectors, stacked)

    def _parts(self, stacked: GradientMatrices) -> list[list[Tensor]]:
        """The entries that belong to all weights, and to all biases."""
        found = [list[Tensor]() for _ in self.parameters]
        for stack, matrix in zip(self.stacks, stacked, strict=True):
            for column, parts in zip(found, stack.parts(matrix), strict=True):
                column += parts
        return found

    def _move(self, place: int, directions: Sequence[Tensor], lengths: Vector, guard: Guard) -> None:
        """p ← (1 − lr·λ) p + length · d for the weights or the biases, unless that has no room in their dtype."""
        parameters, group = self._here(place), self.groups[place]
        if self.recipe.momentum_on == "update":
            directions, lengths = self._update_momentum(place, list(directions), lengths, guard)
        shrink = lr_of(group) * group["weight_decay"]
        before, far = self._largest(place, parameters, directions)
        possible = stay_finite(before, far, lengths, shrink, parameters[0].dtype)
        whole = guard.readable and bool(possible.all())
        if not guard.readable:
            possible = possible & guard.accept.to(self.device)
        decays = isinstance(shrink, Tensor) or shrink != 0
        if decays:
            foreach_mul_(parameters, (1 - possible.to(lengths.dtype) * shrink).unbind())
        if not whole:
            directions = [torch.where(flag, d, 0.0) for flag, d in zip(possible.unbind(), directions, strict=True)]
            lengths = torch.where(possible, lengths, 0.0)
        if self.low_precision:
            steps = foreach_mul(list(directions), lengths.unbind())
            foreach_add_(parameters, [step.to(p.dtype) for step, p in zip(steps, parameters, strict=True)])
        else:
            foreach_addcmul_(parameters, list(directions), lengths.unbind())

    def _largest(self, place: int, parameters: Sequence[Tensor], directions: Sequence[Tensor]) -> tuple[Vector, Vector]:
        """Bounds of the largest magnitude of each parameter and of each direction.

        max |x| ≤ ‖x‖₂, which is faster to have, and mostly is known; the room that float16 has is too narrow for that.
        """
        if parameters[0].dtype == torch.float16:
            return torch.stack(largest_magnitude(parameters)), torch.stack(largest_magnitude(directions))
        known = place == 0 and self.recipe.keep_norms
        before = self.step.weight_norms if known else torch.stack(foreach_norm(list(parameters)))
        moved = self.recipe.momentum_on == "update"  # those are no directions of the step
        return before, torch.stack(foreach_norm(list(directions))) if moved else self.step.length

    def _update_momentum(
        self, place: int, directions: list[Tensor], lengths: Vector, guard: Guard
    ) -> tuple[list[Tensor], Vector]:
        """m ← τm + ζ, then θ ← θ + m (LNGD Algorithm 1, lines 14–16)."""
        momentum = self.tensors["momentum"][place]
        new = foreach_mul(momentum, self.groups[place]["momentum"])
        foreach_addcmul_(new, directions, lengths.unbind())
        for old, each in zip(momentum, new, strict=True):
            old.copy_(each if guard.readable else torch.where(guard.accept.to(self.device), each, old))
        return list(new), torch.ones_like(lengths)

    def _observe(self, step: Directions, norms: Vector) -> None:
        """The running mean of |cos(W, ∇)|·√dim: below ALIGNED the loss does not depend on the weight's norm.

        There ∇ is orthogonal to W. A step orthogonal to W can only lengthen it, and a natural-gradient step is as long as W is:
        left alone, norms grow geometrically until they overflow, while the function looks healthy.
        """
        weights, grads = step.weights, list(step.averages.gradients[0])
        slopes = step.summed_up(
            torch.stack([torch.dot(w.reshape(-1).to(self.dtype), g.reshape(-1)) for w, g in zip(weights, grads, strict=True)])
        )
        cosine = slopes.abs() / (norms.to(slopes.dtype) * step.norms_of(grads))
        scaled = torch.stack(foreach_mul(cosine.unbind(), self.sizes))
        seen, alignment = self.numbers["observations"], self.numbers["alignment"]
        counts = step.accept & scaled.isfinite()
        mean = torch.where(seen > 0, torch.lerp(scaled, alignment, ALIGNMENT_DECAY), scaled)
        alignment.copy_(torch.where(counts, mean, alignment))
        seen.add_(counts)

    def _keep_norms(self, step: Directions, norms: Vector, guard: Guard) -> None:
        """Gives the weights of scale-invariant layers the norm they had before the step."""
        invariant = (self.numbers["alignment"] < ALIGNED) & (self.numbers["observations"] > AGREED)
        if guard.readable and not invariant.any():
            return
        weights = step.weights
        ratio = norms / step.norms_of(weights)
        if not guard.readable:
            invariant = invariant & guard.accept.to(self.device)
        ratio = torch.where(invariant & ratio.isfinite() & (ratio > 0), ratio, 1.0)
        foreach_mul_(list(weights), ratio.unbind())


def larger(one: float | Tensor, two: float | Tensor) -> float | Tensor:
    """The larger of two rates; one that lies on a device is not waited for."""
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        return torch.maximum(torch.as_tensor(one), torch.as_tensor(two))
    return max(one, two)


def stay_finite(before: Vector, far: Vector, lengths: Vector, shrink: float | Tensor, dtype: torch.dtype) -> Flags:
    """Whether (1 − shrink) p + length · direction has room in a dtype, if p and direction are no larger than `before` and `far`;
    finite numbers may be too long for it."""
    kept = (1 - shrink).abs() if isinstance(shrink, Tensor) else abs(1 - shrink)
    return kept * before.to(far.dtype) + lengths.abs() * far < torch.finfo(dtype).max / 2


def buckets(layers: Active) -> list[Bucket]:
    """All layers, those of a kind together as far as they are small; in an order that depends on nothing else."""
    kinds: dict[tuple[object, ...], list[Active]] = {}
    held: dict[tuple[object, ...], int] = {}
    for each, resting in layers:
        layer = each.layer
        kind = (resting, layer.weight.device, layer.weight.dtype, layer.dtype, *(id(group) for group in each.groups))
        kind += () if each.shards is None else (each.shards.split_of.name,)
        size = layer.groups * layer.outputs * layer.inputs
        if kind not in kinds or held[kind] + size > LARGEST:
            kinds.setdefault(kind, []).append([])
            held[kind] = 0
        held[kind] += size
        kinds[kind][-1].append((each, resting))
    return [Bucket([each for each, _ in members], members[0][1]) for alike in kinds.values() for members in alike]
