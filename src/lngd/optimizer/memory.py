"""How many bytes an optimizer's state will take, before any step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from lngd.optimizer.layer_state import LayerState

FALLBACK_COPIES = 2
"""AdamW keeps two averages of a parameter's size and dtype."""
MIB = 2**20


@dataclass(frozen=True)
class LayerMemory:
    """One layer's bytes: Fisher statistics, their inverses, and averages of the gradient's size."""

    name: str
    statistics: int
    inverses: int
    averages: int

    @property
    def total(self) -> int:
        return self.statistics + self.inverses + self.averages


@dataclass(frozen=True)
class MemoryReport:
    """State in bytes; printed, a table. What a measuring step needs for a moment depends on the batch and is not in it."""

    layers: tuple[LayerMemory, ...]
    fallback: int
    """AdamW's averages."""
    parameters: int
    """The parameters themselves, for comparison."""

    @property
    def curvature(self) -> int:
        """Statistics and inverses of all layers."""
        return sum(layer.statistics + layer.inverses for layer in self.layers)

    @property
    def total(self) -> int:
        """All state."""
        return sum(layer.total for layer in self.layers) + self.fallback

    def __str__(self) -> str:
        rows = [("layer", "statistics", "inverses", "averages", "MiB")]
        rows += [(each.name or "(the model)", *_cells(each)) for each in self.layers]
        if self.fallback:
            rows.append(("AdamW", "", "", _mib(self.fallback), _mib(self.fallback)))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        ratio = self.total / max(self.parameters, 1)
        lines.append(f"{_mib(self.total)} MiB of state for {_mib(self.parameters)} MiB of parameters: {ratio:.1f} ×")
        return "\n".join(lines)


def memory_report(states: Mapping[str, LayerState], groups: Sequence[Mapping[str, Any]]) -> MemoryReport:
    """From shapes alone.

    Args:
        states: the layers with curvature.
        groups: the optimizer's parameter groups.
    """
    adamw = sum(p.nbytes for group in groups if group["kind"] == "fallback" for p in group["params"])
    parameters = sum(p.nbytes for group in groups for p in group["params"])
    return MemoryReport(tuple(_of_layer(*item) for item in states.items()), FALLBACK_COPIES * adamw, parameters)


def _of_layer(name: str, state: LayerState) -> LayerMemory:
    layer, block, recipe = state.layer, state.block, state.recipe
    size = layer.dtype.itemsize
    shapes = block.shapes(layer.inputs, layer.outputs, one_hot=layer.one_hot)
    numbers = {key: layer.groups * prod(shape) for key, shape in shapes.items() if torch.Size(shape)}
    statistics, inverses = (size * sum(numbers.get(key, 0) for key in keys) for keys in (block.statistics, block.inverses))
    matrices = recipe.momentum.matrices + recipe.step_size.matrices
    return LayerMemory(name, statistics, inverses, size * matrices * layer.groups * layer.inputs * layer.outputs)


def _cells(layer: LayerMemory) -> tuple[str, str, str, str]:
    return _mib(layer.statistics), _mib(layer.inverses), _mib(layer.averages), _mib(layer.total)


def _mib(number: int) -> str:
    return f"{number / MIB:.2f}"
