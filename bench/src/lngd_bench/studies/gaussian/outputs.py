"""What the paper's Fig. 6 shows: what layers put out, over all samples, and how normal it is.

Two stages of a layer. Its *pre-activation* is s = W a; its *output* is what the next layer receives, after normalisation,
shortcut, activation and pooling, whatever lies between: the quantity whose predictive distribution LNGD takes to be N(a, I).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lngd.layers import adapter_of
from lngd_bench.studies.gaussian.normality import Normality, PerSample, normality, normality_of_columns

STAGES = ("pre-activation", "output")


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
    every: Mapping[str, PerSample]


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
