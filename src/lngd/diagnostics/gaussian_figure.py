"""The paper's Fig. 6: what layers put out, over all samples, beside the normal that fits it best.

Two stages of a layer. Its *pre-activation* is s = W a; its *output* is what the next layer receives, after normalisation,
shortcut, activation and pooling, whatever lies between: the quantity whose predictive distribution LNGD takes to be N(a, I).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lngd.diagnostics.normality import CLOSE, Normality, normality, normality_of_columns
from lngd.layers import adapter_of

STAGES = ("pre-activation", "output")
STAGE_COLOURS = dict(zip(STAGES, ("#0072B2", "#009E73"), strict=True))
BARS, NORMAL, RECTIFIED = "#56B4E9", "#D55E00", "#000000"
BINS, CURVE_POINTS, SHOWN_DEVIATIONS = 50, 200, 3
INCHES_A_LAYER, INCHES_HIGH, DOTS_PER_INCH = 5.4, 8.0, 120


@dataclass(frozen=True)
class Sample:
    """One number of each sample of the data, what it is, and how normal."""

    quantity: str
    values: Tensor
    fit: Normality


@dataclass(frozen=True)
class Stage:
    """A layer at one stage: a coordinate, the norm of the whole, and the fits of all coordinates, field by field."""

    layer: str
    stage: str
    coordinate: Sample
    norm: Sample
    every: dict[str, Tensor]


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that have curvature, by name."""
    return {name: module for name, module in model.named_modules() if adapter_of(module)}


@torch.no_grad()
def observe(model: nn.Module, inputs: Sequence[Tensor], layer: str) -> list[Stage]:
    """Both stages of a layer, the model in evaluation mode; the mode it had is restored. `inputs` are batches."""
    training = model.training
    model.eval()
    caught = _caught(model, inputs, layer)
    model.train(training)
    return [_stage(layer, stage, values) for stage, values in zip(STAGES, caught, strict=True)]


def receivers(model: nn.Module, x: Tensor) -> dict[str, str]:
    """For each layer the first later one whose input is made of its output; a layer that none follows is left out."""
    found: dict[str, str] = {}
    edges: dict[str, GradientEdge] = {}

    def before(name: str, received: Tensor) -> None:
        waiting = [n for n in edges if n not in found]
        if received.requires_grad and waiting:
            ends = [edges[n] for n in waiting]
            grads = torch.autograd.grad(received.sum(), ends, retain_graph=True, allow_unused=True)
            found.update({n: name for n, grad in zip(waiting, grads, strict=True) if grad is not None})

    def after(name: str, output: Tensor) -> Tensor:
        standin = output.clone()  # an in-place activation on a view would leave no edge that lasts
        edges[name] = get_gradient_edge(standin)
        return standin

    with torch.enable_grad(), _hooks(layers_of(model), before, after):
        model(x)
    return found


def coordinate_index(values: Tensor) -> tuple[int, ...]:
    """The middle of the first channel that varies there: an image's centre pixel, a sequence's middle token, a vector's entry.

    Raises:
        ValueError: no channel does.
    """
    channel_axis = 1 if values.dim() == 3 else 0  # [n, tokens, channels]; images and vectors have their channels first
    middle = [size // 2 for size in values.shape[1:]]
    for channel in range(values.shape[1 + channel_axis]):
        middle[channel_axis] = channel
        column = values.movedim(0, -1)[tuple(middle)]
        if column.amax() > column.amin():
            return tuple(middle)
    raise ValueError("in the middle of every channel this layer puts out the same for every sample: choose another layer")


def draw(stages: Sequence[Stage], path: Path, title: str) -> Path:
    """Writes the PNG: layers side by side, their stages below each other, the distances of all coordinates at the bottom."""
    layers = list(dict.fromkeys(stage.layer for stage in stages))
    figure = Figure(figsize=(INCHES_A_LAYER * len(layers), INCHES_HIGH), layout="constrained")
    parts = figure.subfigures(1, len(layers), squeeze=False)[0]
    for part, layer in zip(parts, layers, strict=True):
        part.suptitle(layer, fontsize=11)
        _draw_layer(part, [stage for stage in stages if stage.layer == layer])
    labelled = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return path


@contextmanager
def _hooks(
    modules: Mapping[str, nn.Module], before: Callable[[str, Tensor], None], after: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """`before` meets each module's input, `after` gives what stands for its output."""
    with ExitStack() as stack:
        for name, module in modules.items():
            handles = [
                module.register_forward_pre_hook(lambda _, args, name=name: before(name, args[0])),
                module.register_forward_hook(lambda _, __, output, name=name: after(name, output)),
            ]
            for handle in handles:
                stack.callback(handle.remove)
        yield


def _caught(model: nn.Module, inputs: Sequence[Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Pre-activation and output; nothing follows the model's last layer, so there both are the same."""
    receiver = receivers(model, inputs[0][:2]).get(layer)
    made: list[Tensor] = []
    received: list[Tensor] = []

    def before(name: str, x: Tensor) -> None:
        if name == receiver:
            received.append(x.clone())

    def after(name: str, output: Tensor) -> Tensor:
        if name == layer:
            made.append(output.clone())
        return output

    with _hooks(layers_of(model), before, after):
        for x in inputs:
            model(x)
    return torch.cat(made), torch.cat(received or made)


def _stage(layer: str, stage: str, values: Tensor) -> Stage:
    index = coordinate_index(values)
    at, norms = values.movedim(0, -1)[index], values.flatten(1).norm(dim=1)
    return Stage(
        layer,
        stage,
        Sample(f"at {index if len(index) > 1 else index[0]}", at, normality(at)),
        Sample("norm", norms, normality(norms)),
        normality_of_columns(values.flatten(1)),
    )


def _draw_layer(part: SubFigure, stages: list[Stage]) -> None:
    grid = part.add_gridspec(len(STAGES) + 1, 2)
    for row, stage in enumerate(stages):
        _histogram(part.add_subplot(grid[row, 0]), stage.stage, stage.coordinate)
        _histogram(part.add_subplot(grid[row, 1]), stage.stage, stage.norm)
    _distances(part.add_subplot(grid[-1, :]), stages)


def _histogram(axes: Axes, stage: str, sample: Sample) -> None:
    """Densities over all samples; zeros, which have no density, are left out and counted in words."""
    values, fit = sample.values.double(), sample.fit
    shown = values[values != 0]
    counts, edges = torch.histogram(shown.cpu(), BINS)
    width = (edges[1] - edges[0]).item()
    heights = counts / (len(values) * width)
    axes.bar(edges[:-1].numpy(), heights.numpy(), width, align="edge", color=BARS, label="samples")
    t = torch.linspace(*_range(edges, fit), CURVE_POINTS, dtype=torch.double)
    axes.plot(t, fit.normal.density(t), color=NORMAL, label="normal, mean and deviation of the samples")
    if fit.rectified_distance.isfinite():
        label = "rectified normal, zeros and mean of the samples"
        axes.plot(t[t > 0], fit.rectified.density(t[t > 0]), color=RECTIFIED, linestyle="--", label=label)
    axes.set_title(f"{stage}, {sample.quantity}", fontsize=9)
    axes.annotate(_remark(fit), (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the remark
    axes.set_yticks([])
    _tidy(axes)


def _range(edges: Tensor, fit: Normality) -> tuple[float, float]:
    """Of the samples, and of the normal as far as it counts: what it puts below 0 where no output is belongs to the picture."""
    ends = [fit.normal.mean.item() + sign * SHOWN_DEVIATIONS * fit.normal.deviation.item() for sign in (-1, 1)]
    return min(edges[0].item(), ends[0]), max(edges[-1].item(), ends[1])


def _remark(fit: Normality) -> str:
    rectified = f"\nKS of values > 0: {fit.rectified_distance:.3f}" if fit.rectified_distance.isfinite() else ""
    zeros = f"\n{100 * fit.zeros:.0f} % exactly 0" if fit.zeros > 0 else ""
    return f"KS: {fit.distance:.3f}{rectified}{zeros}"


def _distances(axes: Axes, stages: list[Stage]) -> None:
    """The share of coordinates whose distance is below what the axis says."""
    for stage in stages:
        for name, style in (("distance", "-"), ("rectified_distance", "--")):
            known = stage.every[name][stage.every[name].isfinite()].sort().values
            if len(known):
                label = f"all coordinates, {stage.stage}{' (to the rectified normal)' if name.startswith('rect') else ''}"
                share = torch.arange(1, len(known) + 1) / len(known)
                axes.plot(known, share, style, color=STAGE_COLOURS[stage.stage], label=label)
    axes.axvline(CLOSE, color="0.6", linewidth=1)
    place = (CLOSE, 1.0)
    axes.annotate(str(CLOSE), place, xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color="0.35")
    axes.set_xlabel("KS distance of a coordinate", fontsize=9)
    axes.set_ylabel("share of coordinates", fontsize=9)
    axes.set_xlim(left=0)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
