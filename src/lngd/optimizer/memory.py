"""How many bytes an optimizer's state will take, before any step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from lngd.optimizer.curved_layer import CurvedLayer, layout
from lngd.optimizer.hyperparameters import Recipe
from lngd.optimizer.ranks import sent

ADAMW_COPIES = 2
"""AdamW keeps two averages of a parameter's size and dtype."""
MIB = 2**20


@dataclass(frozen=True)
class LayerMemory:
    """One layer's bytes: Fisher statistics, their inverses, and averages of the gradient's size.

    Attributes:
        exchanged: what several processes send of the statistics at a measuring step.
    """

    name: str
    statistics: int
    inverses: int
    averages: int
    exchanged: int

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


def memory_report(layers: Mapping[str, CurvedLayer], recipe: Recipe, groups: Sequence[Mapping[str, Any]]) -> MemoryReport:
    """From shapes alone.

    Args:
        layers: those with curvature.
        recipe: what they share.
        groups: the optimizer's parameter groups.
    """
    curved = {id(p) for each in layers.values() for p in each.parameters}
    trained = [p for group in groups for p in group["params"] if p.requires_grad]
    adamw = sum(p.nbytes for p in trained if id(p) not in curved)
    return MemoryReport(
        tuple(_of_layer(name, each, recipe) for name, each in layers.items()),
        ADAMW_COPIES * adamw,
        sum(p.nbytes for p in trained),
    )


def _of_layer(name: str, each: CurvedLayer, recipe: Recipe) -> LayerMemory:
    bytes_of: dict[str, int] = {}
    exchanged = 0
    for own in layout(each.layer, each.block, recipe):
        for key, place in own.items():
            if place is not None:
                bytes_of[key] = bytes_of.get(key, 0) + prod(place[0]) * place[1].itemsize
                if key in each.block.statistics:
                    exchanged += sent(place[0], each.layer.groups) * place[1].itemsize
    statistics, inverses = (sum(bytes_of.pop(key) for key in keys) for keys in (each.block.statistics, each.block.inverses))
    return LayerMemory(name, statistics, inverses, sum(bytes_of.values()), exchanged)


def _cells(layer: LayerMemory) -> tuple[str, str, str, str]:
    return _mib(layer.statistics), _mib(layer.inverses), _mib(layer.averages), _mib(layer.total)


def _mib(number: int) -> str:
    return f"{number / MIB:.2f}"
