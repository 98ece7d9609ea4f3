"""The record of `lngd fisher`, the paper's Figs. 1 and 5 from it, and what became of every layer's errors during training.

A record has a line about the run, one for each layer and method at each point of training, and one with the blocks of one layer.
An approximate block is a Kronecker product and is kept as its two factors in float32; of the exact one the lower triangle is kept
in float16, relative to its largest entry. Figures are always drawn from what is kept.

Brightness is the absolute value, as in the paper, on a square-root scale: on a linear one all but the largest entries are black.
Approximations are drawn at the scale c that brings them nearest to the exact block, and their title says which. Rows and columns
are ordered as the paper's a ⊗ g: the o outputs of the first input, then those of the second; biases are left out.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lngd.types import Dense
from lngd_bench.report.style import tidy
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, matrix_errors

COLOURS_OF_VALUES = colormaps["magma"].resampled(64)  # all 256 would make the files a third larger
BRIGHTEST = 0.999  # the quantile of the exact entries that is drawn brightest
# Okabe and Ito's colours, told apart by every kind of colour vision; LNGD has the strongest.
COLOURS = dict(zip(APPROXIMATIONS, ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#7F7F7F"), strict=True))
MARKERS = dict(zip(APPROXIMATIONS, "osD^vPX", strict=True))
METRICS = {
    "scaled_error": "error of the block\nat its best scale",
    "scaled_diagonal_error": "error of the diagonal\nat its best scale",
    "cosine": "cosine with the\nexact direction",
}
BASELINES = {
    "scaled_error": ("outputwise_error", "the least of any diagonal Ψ", ":"),
    "cosine": ("gradient_cosine", "∇ itself", "--"),
}


@dataclass(frozen=True)
class FisherBlocks:
    """One layer's blocks, weights only and with inputs first.

    Attributes:
        exact: `[i·o, i·o]`, symmetric.
        factors: by method, over the inputs `[i, i]` and over the outputs `[o, o]`.
    """

    title: str
    exact: Tensor
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def outputs(self) -> int:
        return len(next(iter(self.factors.values()))[1])

    @property
    def dense(self) -> dict[str, Tensor]:
        return {name: torch.kron(inputs, outputs) for name, (inputs, outputs) in self.factors.items()}

    @property
    def brightest(self) -> slice:
        """The two neighbouring inputs with the largest share of the trace."""
        by_input = self.exact.diagonal().reshape(-1, self.outputs).sum(-1)
        start = self.outputs * int((by_input[:-1] + by_input[1:]).argmax())
        return slice(start, start + 2 * self.outputs)

    def at_best_scale(self, name: str) -> tuple[Tensor, float, float]:
        """c F̂, c, and the error at c."""
        block = self.dense[name]
        errors = matrix_errors(block, self.exact)
        return errors["scale"] * block, errors["scale"], errors["scaled_error"]

    def line(self) -> dict[str, Any]:
        """For JSON."""
        largest = self.exact.abs().max().item()
        lower = self.exact.numpy()[np.tril_indices(len(self.exact))] / (largest or 1.0)
        return {
            "event": "blocks",
            "title": self.title,
            "inputs": len(self.exact) // self.outputs,
            "outputs": self.outputs,
            "largest": largest,
            "exact": _packed(lower, "<f2"),
            "factors": {name: [_packed(factor.numpy(), "<f4") for factor in pair] for name, pair in self.factors.items()},
        }


def blocks_of(lines: Sequence[Mapping[str, Any]]) -> FisherBlocks:
    """Those that a record holds; raises IndexError where it has none."""
    line = [line for line in lines if line["event"] == "blocks"][0]  # noqa: RUF015  an IndexError says what is wrong
    sides = line["inputs"], line["outputs"]
    lower = torch.zeros(sides[0] * sides[1], sides[0] * sides[1], dtype=torch.double)
    lower[*np.tril_indices(len(lower))] = _unpacked(line["exact"], "<f2") * line["largest"]
    factors = {
        name: (_unpacked(one, "<f4").reshape(sides[0], -1), _unpacked(two, "<f4").reshape(sides[1], -1))
        for name, (one, two) in line["factors"].items()
    }
    return FisherBlocks(line["title"], lower + lower.tril(-1).T, factors)


def kronecker_factors(block: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """X over the inputs and Y over the outputs of a block X ⊗ Y: its partial traces, of which one is divided by tr X · tr Y."""
    parts = block.unflatten(1, (-1, outputs)).unflatten(0, (-1, outputs))  # [i, o, i, o]
    over_inputs = parts.diagonal(dim1=1, dim2=3).sum(-1)
    over_outputs = parts.diagonal(dim1=0, dim2=2).sum(-1)
    trace = block.trace()
    return over_inputs, over_outputs / trace if trace else over_outputs


def weights_only(block: Dense, outputs: int) -> Tensor:
    """A block of a layer with bias, without the bias and with inputs first: `[i·o, i·o]`."""
    whole = block.unflatten(1, (outputs, -1)).unflatten(0, (outputs, -1))  # [o, i, o, i]
    return whole[:, :-1, :, :-1].permute(1, 0, 3, 2).flatten(2, 3).flatten(0, 1)


def figure_1(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """The exact block, LNGD's and their distance; below, the two neighbouring inputs of the largest trace."""
    blocks = blocks_of(lines)
    panels, part = {"exact F": blocks.exact, **_beside(blocks, "LNGD")}, blocks.brightest
    figure = Figure(figsize=(12.5, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    _images(figure, axes[0], panels, slice(0, len(blocks.exact)))
    _images(figure, axes[1], {name: panel[part, part] for name, panel in panels.items()}, part)
    for top in axes[0]:
        top.add_patch(Rectangle((part.start,) * 2, *(2 * blocks.outputs,) * 2, fill=False, edgecolor="red", linewidth=1.6))
    for bottom in axes[1]:
        bottom.set_title("")
        bottom.spines[:].set_color("red")
        bottom.spines[:].set_linewidth(1.6)
    figure.suptitle(blocks.title, fontsize=13)
    return figure


def figure_5(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """A row for each approximation, with the exact block and the distance between the two."""
    blocks = blocks_of(lines)
    figure = Figure(figsize=(12.5, 4.1 * len(blocks.factors) + 0.5), layout="constrained")
    for axes, name in zip(figure.subplots(len(blocks.factors), 3, squeeze=False), blocks.factors, strict=True):
        _images(figure, axes, {"exact F": blocks.exact, **_beside(blocks, name)}, slice(0, len(blocks.exact)))
    figure.suptitle(blocks.title, fontsize=13)
    return figure


def draw(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """The metrics of `METRICS` over the steps of training, a column for each layer; above, the brightest part of the blocks."""
    start, rows, blocks = lines[0], [line for line in lines if line["event"] == "row"], blocks_of(lines)
    layers: Mapping[str, str] = start["layers"]
    figure = Figure(figsize=(1.65 * len(layers) + 0.6, 7.3), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.6), squeeze=False)[:, 0]
    panels = {"exact F": blocks.exact} | {name: blocks.at_best_scale(name)[0] for name in blocks.factors}
    part, tops = blocks.brightest, above.subplots(1, len(panels))
    _images(above, tops, {name: panel[part, part] for name, panel in panels.items()}, slice(0, 2 * blocks.outputs))
    for top in tops:
        top.set(xticks=[], yticks=[])
    above.suptitle(f"{blocks.title}:\nthe two neighbouring inputs with the largest trace, at the best scale", fontsize=10)
    axes = below.subplots(len(METRICS), len(layers), sharex=True, sharey="row", squeeze=False)
    for line, (metric, label) in enumerate(METRICS.items()):
        axes[line, 0].set_ylabel(label)
        for panel, layer in zip(axes[line], layers, strict=True):
            _curves(panel, [row for row in rows if row["layer"] == layer], metric)
    for heading, top, bottom in zip(layers.values(), axes[0], axes[-1], strict=True):
        top.set_title(heading, fontsize=10)
        bottom.set_xlabel("steps")
        bottom.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    legends = [panel.get_legend_handles_labels() for panel in axes[:, 0]]
    handles = {label: handle for legend in legends for handle, label in zip(*legend, strict=True)}
    below.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _beside(blocks: FisherBlocks, name: str) -> dict[str, Tensor]:
    """A block at its best scale and its distance from the exact one, by title."""
    scaled, scale, error = blocks.at_best_scale(name)
    title = f"|exact − {scale:#.3g} × {name}|, relative error {error:.2f}"
    return {f"{scale:#.3g} × {name}": scaled, title: blocks.exact - scaled}


def _images(figure: Any, axes: Sequence[Axes], panels: Mapping[str, Tensor], part: slice) -> None:
    """A row of panels on one scale, which ends above all but the largest thousandth of the first panel's entries."""
    values = [panel.abs().numpy() for panel in panels.values()]
    norm = PowerNorm(0.5, vmin=0, vmax=np.quantile(values[0], BRIGHTEST))
    corners = (part.start, part.stop, part.stop, part.start)
    images = []
    for panel, title, value in zip(axes, panels, values, strict=True):
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        images.append(panel.imshow(value, cmap=COLOURS_OF_VALUES, norm=norm, extent=corners, interpolation_stage="data"))
        panel.set_title(title, fontsize=10)
    bar = figure.colorbar(images[0], ax=list(axes), extend="max", shrink=0.9, pad=0.01)
    bar.set_label("absolute value,\nsquare-root scale")


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    for method in APPROXIMATIONS:
        own = [row for row in rows if row["method"] == method]
        steps, values = [row["step"] for row in own], [row[metric] for row in own]
        (line,) = axes.plot(steps, values, label=method, color=COLOURS[method], marker=MARKERS[method], markersize=4)
        line.set(linewidth=2.6 if method == "LNGD" else 1.4, zorder=3 if method == "LNGD" else 2)
        if method == "LNGD" and metric in BASELINES:
            field, label, dashes = BASELINES[metric]
            axes.plot(steps, [row[field] for row in own], label=label, color="black", linestyle=dashes, linewidth=1.2)
    axes.set_ylim(0, 1.03)
    tidy(axes)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")


def _unpacked(text: str, kind: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), kind).astype(np.float64))
