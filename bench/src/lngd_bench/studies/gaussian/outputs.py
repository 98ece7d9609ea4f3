"""What the paper's Fig. 6 shows: what layers put out, over all samples, and how normal it is.

Two stages of a layer. Its *pre-activation* is s = W a; its *output* is what the next layer receives, after normalisation,
shortcut, activation and pooling, whatever lies between: the quantity whose predictive distribution LNGD takes to be N(a, I).

A record has three lines for each layer and stage: a coordinate, the norm, and all coordinates together; bars instead of samples
and a hundred points of each curve. What is not known is null.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lngd.layers import adapter_of
from lngd_bench.studies.gaussian.normality import PerSample, aggregate, normality, normality_of_columns
from lngd_bench.tasks.scoring import evaluating
from lngd_bench.training.records import finite

STAGES = ("pre-activation", "output")
DISTANCES = {"normal": "distance", "rectified": "rectified_distance"}
BINS, MOST_POINTS, DIGITS = 50, 100, 6  # of a histogram; of a curve of distances


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that have curvature, by name."""
    return {name: module for name, module in model.named_modules() if adapter_of(module)}


@torch.no_grad()
def observe(model: nn.Module, inputs: Sequence[Tensor], layer: str) -> dict[str, Tensor]:
    """A layer's values by stage, the model in evaluation mode; the mode it had is restored. `inputs` are batches.

    Nothing follows the model's last layer, so there both stages are the same.
    """
    made: list[Tensor] = []
    received: list[Tensor] = []

    def before(name: str, x: Tensor) -> None:
        if name == receiver:
            received.append(x.clone())

    def after(name: str, output: Tensor) -> Tensor:
        if name == layer:
            made.append(output.clone())
        return output

    with evaluating(model):
        receiver = receivers(model, inputs[0][:2]).get(layer)
        with _hooks(layers_of(model), before, after):
            for x in inputs:
                model(x)
    return dict(zip(STAGES, (torch.cat(made), torch.cat(received or made)), strict=True))


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


@contextmanager
def _hooks(
    modules: Mapping[str, nn.Module], before: Callable[[str, Tensor], None], after: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """`before` meets each module's input, `after` gives what stands for its output."""
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(module.register_forward_pre_hook(lambda _, args, name=name: before(name, args[0])))
            stack.enter_context(module.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
        yield


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


def lines_of(layer: str, stage: str, values: Tensor) -> list[dict[str, Any]]:
    """The three lines of a record."""
    place = {"layer": layer, "stage": stage}
    index = coordinate_index(values)
    at = f"at {index if len(index) > 1 else index[0]}"
    samples = {at: values.movedim(0, -1)[index], "norm": values.flatten(1).norm(dim=1)}
    every = normality_of_columns(values.flatten(1))
    curves = {name: _curve(every[key]) for name, key in DISTANCES.items()}
    return [
        *({"event": "sample", **place, "quantity": quantity, **_bars(sample)} for quantity, sample in samples.items()),
        {"event": "coordinates", **place, "count": every["distance"].size, **curves},
    ]


def _bars(sample: Tensor) -> dict[str, Any]:
    """Bars leave out what is exactly 0, which has no density."""
    values = sample.double().cpu().numpy()
    counts, edges = np.histogram(values[values != 0], BINS)
    numbers = {name: finite(float(value)) for name, value in normality(sample).items()}
    return {"n": len(values), **numbers, "low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _curve(distances: PerSample) -> dict[str, Any]:
    """The k-th of m points has the share k/m of the known distances at or below it; m is their number or 100."""
    known = np.sort(distances[np.isfinite(distances)])
    count = min(len(known), MOST_POINTS)
    points = [known[-(-k * len(known) // count) - 1] for k in range(1, count + 1)]
    aggregates = {key: finite(value) for key, value in aggregate(distances).items()}
    return {**aggregates, "curve": [float(f"{point:.{DIGITS}g}") for point in points]}
