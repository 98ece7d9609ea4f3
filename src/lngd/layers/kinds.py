"""Which modules have curvature, and by which adapter. A new layer is a class in a file of its own and a row in `LAYERS`."""

import inspect
from collections.abc import Callable
from itertools import chain

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from lngd.layers.attention import AttentionInput
from lngd.layers.convolution import ConvLayer
from lngd.layers.embedding import EmbeddingLayer
from lngd.layers.layer import Layer
from lngd.layers.linear import Conv1DLayer, LinearLayer, is_conv1d
from lngd.layers.transposed import ConvTransposeLayer

LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.Conv3d: ConvLayer,
    nn.ConvTranspose1d: ConvTransposeLayer,
    nn.ConvTranspose2d: ConvTransposeLayer,
    nn.ConvTranspose3d: ConvTransposeLayer,
    nn.Embedding: EmbeddingLayer,
    nn.MultiheadAttention: AttentionInput,
}
"""By class. A subclass counts as its nearest parent here unless it has a forward of its own."""

OWN_EMBEDDING = (
    "AdamW trains embeddings better (docs/layers.md); one with its own forward has curvature=True after register_layer"
)
COMPUTED = "it takes part in the computation of a weight, but not as its rows"
BY_LOOKS: dict[Callable[[nn.Module], bool], type[Layer]] = {is_conv1d: Conv1DLayer}
"""By what a module looks like, after `LAYERS`: for classes of libraries that are not imported."""


def register_layer(module_class: type[nn.Module], adapter: type[Layer]) -> None:
    """Gives modules of a class curvature by an adapter, in every optimizer that is made from now on.

    The class wins over its parents, and replaces what was registered for it before. A subclass counts as its parent unless it has
    a forward of its own; one that writes the same product itself is registered with the parent's adapter, which
    `check_layer` then confirms: `register_layer(FalconLinear, LinearLayer)`.

    Raises:
        TypeError: `module_class` is no subclass of nn.Module, or `adapter` none of `Layer` with all its methods.
    """
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise TypeError(f"register_layer got {module_class!r} as the module's class: give a subclass of nn.Module")
    refuse_incomplete(adapter)
    LAYERS[module_class] = adapter


def refuse_incomplete(adapter: object) -> None:
    """Raises TypeError unless an adapter is a class that can be used."""
    if not (isinstance(adapter, type) and issubclass(adapter, Layer)):
        raise TypeError(f"{adapter!r} is no adapter: give a subclass of lngd.Layer, not an instance or a module's class")
    if inspect.isabstract(adapter):
        missing = ", ".join(sorted(adapter.__abstractmethods__))
        raise TypeError(f"the adapter {adapter.__name__} lacks methods of lngd.Layer: write {missing}")


def adapter_of(module: nn.Module) -> type[Layer] | None:
    """The adapter for a module, or None if it has none."""
    return None if why_unsupported(module) else registered_adapter(module)


def why_unsupported(module: nn.Module) -> str | None:
    """Why a module has no adapter; None if it has one."""
    adapter = registered_adapter(module)
    if adapter is not None:
        return why_not(module, adapter)
    if isinstance(module, nn.Embedding):
        return OWN_EMBEDDING
    if isinstance(module, ParametrizationList):
        return COMPUTED
    return f"no curvature for {type(module).__name__}"


def why_not(module: nn.Module, adapter: type[Layer]) -> str | None:
    """Why a module is no linear layer, though its class has an adapter; None if it is one."""
    weight = dict(module.named_parameters(recurse=False)).get(adapter.weight_name)
    if weight is not None and not weight.numel():
        return f"its weight is empty, of shape {tuple(weight.shape)}"
    return next((reason for reason, holds in adapter.unsupported.items() if holds(module)), None)


def registered_adapter(module: nn.Module) -> type[Layer] | None:
    """The adapter for a module's class, whether or not this module is a linear layer."""
    parents = (kind for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind in LAYERS)
    by_class = (LAYERS[kind] for kind in parents if type(module).forward is kind.forward)
    by_looks = (adapter for looks_like, adapter in BY_LOOKS.items() if looks_like(module))
    return next(chain(by_class, by_looks), None)
