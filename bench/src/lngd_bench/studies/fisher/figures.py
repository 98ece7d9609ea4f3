"""The paper's Figs. 1 and 5 for any layer, and what became of every layer's errors during training.

Brightness is the absolute value, as in the paper, on a square-root scale: on a linear one all but the largest entries are black.
Approximations are drawn at the scale c that brings them nearest to the exact block, and their title says which. Rows and columns
are ordered as the paper's a ⊗ g: the o outputs of the first input, then those of the second; biases are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lngd.types import Dense
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, Comparison, matrix_errors

DOTS_PER_INCH = 100
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
class Moment:
    """All comparisons at one point of training."""

    name: str
    step: int
    rows: tuple[Comparison, ...]


def weights_only(block: Dense, outputs: int) -> Tensor:
    """A block of a layer with bias, without the bias and with inputs first: `[i·o, i·o]`."""
    whole = block.unflatten(1, (outputs, -1)).unflatten(0, (outputs, -1))  # [o, i, o, i]
    return whole[:, :-1, :, :-1].permute(1, 0, 3, 2).flatten(2, 3).flatten(0, 1)


def draw_enlarged(exact: Tensor, lngd: Tensor, *, outputs: int, title: str, path: Path) -> None:
    """Fig. 1: the exact block, LNGD's and their distance; below, the two neighbouring inputs of the largest trace."""
    panels = {"exact F": exact, **_beside(exact, {"LNGD": lngd})}
    figure = Figure(figsize=(12.5, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    start, size = _brightest(exact, outputs), 2 * outputs
    window = slice(start, start + size)
    _images(figure, axes[0], panels, (0, len(exact)))
    _images(figure, axes[1], {name: panel[window, window] for name, panel in panels.items()}, (start, start + size))
    for top in axes[0]:
        top.add_patch(Rectangle((start, start), size, size, fill=False, edgecolor="red", linewidth=1.6))
    for bottom in axes[1]:
        bottom.set_title("")
        bottom.spines[:].set_color("red")
        bottom.spines[:].set_linewidth(1.6)
    _save(figure, title, path)


def draw_side_by_side(exact: Tensor, blocks: Mapping[str, Tensor], *, title: str, path: Path) -> None:
    """Fig. 5: a row for each approximation, with the exact block and the distance between the two."""
    figure = Figure(figsize=(12.5, 4.1 * len(blocks) + 0.5), layout="constrained")
    for axes, (name, block) in zip(figure.subplots(len(blocks), 3), blocks.items(), strict=True):
        _images(figure, axes, {"exact F": exact, **_beside(exact, {name: block})}, (0, len(exact)))
    _save(figure, title, path)


def draw_training(moments: Sequence[Moment], layers: Mapping[str, str], *, title: str, path: Path) -> None:
    """The metrics of `METRICS` over the steps of training, a column for each layer.

    Args:
        layers: headings by the layers' names.
    """
    figure = Figure(figsize=(2.5 * len(layers) + 1, 8), layout="constrained")
    axes = figure.subplots(len(METRICS), len(layers), sharex=True, sharey="row", squeeze=False)
    for line, (metric, label) in enumerate(METRICS.items()):
        axes[line, 0].set_ylabel(label)
        for panel, layer in zip(axes[line], layers, strict=True):
            _curves(panel, moments, layer, metric)
    for heading, top, bottom in zip(layers.values(), axes[0], axes[-1], strict=True):
        top.set_title(heading, fontsize=11)
        bottom.set_xlabel("steps")
        bottom.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    legends = [panel.get_legend_handles_labels() for panel in axes[:, 0]]
    handles = {label: handle for legend in legends for handle, label in zip(*legend, strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    _save(figure, title, path)


def _beside(exact: Tensor, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each block at its best scale and its distance from the exact one, by title."""
    panels = {}
    for name, block in blocks.items():
        errors = matrix_errors(block, exact)
        scale, error = errors.scale, errors.scaled_error
        panels[f"{scale:#.3g} × {name}"] = scale * block
        panels[f"|exact − {scale:#.3g} × {name}|, relative error {error:.2f}"] = exact - scale * block
    return panels


def _images(figure: Figure, axes: Sequence[Axes], panels: Mapping[str, Tensor], extent: tuple[int, int]) -> None:
    """A row of panels on one scale, which ends above all but the largest thousandth of the first panel's entries."""
    values = [panel.abs().numpy() for panel in panels.values()]
    norm = PowerNorm(0.5, vmin=0, vmax=np.quantile(values[0], BRIGHTEST))
    images = [_image(panel, value, norm, extent) for panel, value in zip(axes, values, strict=True)]
    for panel, title in zip(axes, panels, strict=True):
        panel.set_title(title, fontsize=11)
    bar = figure.colorbar(images[0], ax=list(axes), extend="max", shrink=0.9, pad=0.01)
    bar.set_label("absolute value, square-root scale")


def _image(axes: Axes, value: np.ndarray, norm: PowerNorm, extent: tuple[int, int]) -> AxesImage:
    first, last = extent
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    corners = (first, last, last, first)
    return axes.imshow(value, cmap=COLOURS_OF_VALUES, norm=norm, extent=corners, interpolation_stage="data")


def _brightest(exact: Tensor, outputs: int) -> int:
    """Where the two neighbouring inputs with the largest share of the trace begin."""
    by_input = exact.diagonal().reshape(-1, outputs).sum(-1)
    return outputs * int((by_input[:-1] + by_input[1:]).argmax())


def _curves(axes: Axes, moments: Sequence[Moment], layer: str, metric: str) -> None:
    steps = [moment.step for moment in moments]
    rows = [{row.method: row for row in moment.rows if row.layer == layer} for moment in moments]
    for method in APPROXIMATIONS:
        values = [getattr(row[method], metric) for row in rows]
        (line,) = axes.plot(steps, values, label=method, color=COLOURS[method], marker=MARKERS[method], markersize=5)
        line.set(linewidth=2.6 if method == "LNGD" else 1.4, zorder=3 if method == "LNGD" else 2)
    if metric in BASELINES:
        field, label, dashes = BASELINES[metric]
        values = [getattr(row["LNGD"], field) for row in rows]
        axes.plot(steps, values, label=label, color="black", linestyle=dashes, linewidth=1.2)
    axes.set_ylim(0, 1.03)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
