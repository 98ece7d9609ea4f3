"""Layers of one shape, of which a step's directions are one batch of products.

On a GPU a product of small matrices is a launch, on a CPU a call. What such layers keep lies in one tensor `[layers, o, i]`, so
that nothing has to be put together at a step; each layer, and its state, holds a view. A layer that has no equal, or is so large
that a product takes long by itself, is a stack of its own, whose matrix has no leading dimension.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from lngd.layers import ConvLayer, Layer, LinearLayer
from lngd.optimizer.curved_layer import CurvedLayer
from lngd.optimizer.shards import ShardedLayer

LARGEST = 2**20
"""Entries of a matrix from which on a product takes long enough by itself."""


class Stack:
    """Some layers with matrices of one shape and factors of one form, or any one layer.

    Args:
        layers: of one kind.
        averaged: whether M is to be kept in one tensor; not where some of it rests.
    """

    def __init__(self, layers: Sequence[CurvedLayer], *, averaged: bool) -> None:
        self.layers, self.several, first = list(layers), len(layers) > 1, layers[0]
        self.adapter: Layer | ShardedLayer = first.shards or first.layer
        if not self.several:
            first.stand_alone()
        self.average = first.average if averaged else None
        """M; None where the layers' states have no such view, or nothing is averaged."""
        if self.several and self.average is not None:
            self.average = torch.stack([each.average for each in layers if each.average is not None])
            for each, matrix in zip(layers, self.average.unbind(), strict=True):
                each.move_average(matrix)
        self._block, self._inverses = copy(first.block), dict[str, tuple[Tensor, ...]]()

    def each(self, matrix: Tensor) -> list[Tensor]:
        """Of each layer its own."""
        return list(matrix.unbind()) if self.several else [matrix]

    def flat(self, matrix: Tensor) -> list[Tensor]:
        """Of each layer its own as a vector."""
        return list(matrix.flatten(1).unbind()) if self.several else [matrix.reshape(-1)]

    def parts(self, matrix: Tensor) -> list[list[Tensor]]:
        """The entries that belong to the weights of all layers, and those of the biases; views where that is possible."""
        if not self.several:
            return [[part] for part in self.adapter.split(matrix)]
        weight, *biases = self.adapter.parameters
        weights = matrix[..., :-1] if biases else matrix
        if weight.dim() > 2:
            weights = weights.unflatten(-1, weight.shape[1:])
        return [list(weights.unbind()), *(list(matrix[..., -1].unbind()) for _ in biases)]

    def whole(self, parts: Sequence[Sequence[Tensor]]) -> Tensor:
        """The inverse of `parts`; a copy."""
        matrices = [self.adapter.matrix(list(own)) for own in zip(*parts, strict=True)]
        return torch.stack(matrices) if self.several else matrices[0]

    def direction(self, average: Tensor) -> Tensor:
        """d = F̂⁻¹M of each layer, as `CurvedLayer.direction` makes it; of one without F̂⁻¹ zero."""
        if not self.several:
            return self.layers[0].direction(average) if self.layers[0].ready else torch.zeros_like(average)
        if all(each.ready for each in self.layers):
            self._gather_inverses()
            return self.layers[0].direction(average, self._block)
        own = zip(self.layers, average.unbind(), strict=True)
        return torch.stack([each.direction(m) if each.ready else torch.zeros_like(m) for each, m in own])

    def _gather_inverses(self) -> None:
        """Takes over what was made since the last step."""
        for name in self._block.inverses:
            now = [getattr(each.block, name) for each in self.layers]
            if name not in self._inverses:
                whole = torch.stack(now)
                setattr(self._block, name, whole)
                self._inverses[name] = whole.unbind()
            for each, t, place in zip(self.layers, now, self._inverses[name], strict=True):
                if t is not place:
                    place.copy_(t)
                    setattr(each.block, name, place)
                    each.publish()


def stacks(layers: Sequence[CurvedLayer], *, averaged: bool) -> list[Stack]:
    """Layers of one kind together, in the order of the first of each kind."""
    kinds: dict[object, list[CurvedLayer]] = {}
    for each in layers:
        kinds.setdefault(_kind(each) or each, []).append(each)
    return [Stack(alike, averaged=averaged) for alike in kinds.values()]


def _kind(each: CurvedLayer) -> tuple[object, ...] | None:
    """What layers have to agree in to be stacked; None for one that never is."""
    layer = each.layer
    plain = type(layer) is LinearLayer or (type(layer) is ConvLayer and layer.groups == 1)
    if each.shards is not None or not plain or layer.outputs * layer.inputs > LARGEST:
        return None
    factors = tuple(each.block.shapes(layer.inputs, layer.outputs).items())
    return type(layer), layer.weight.shape, len(each.parameters), each.average is None, factors
