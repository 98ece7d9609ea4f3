"""Which modules have curvature, and by which adapter. A new layer is a class in a file of its own and a row in `LAYERS`."""

from torch import nn

from lngd.layers.attention import AttentionInput
from lngd.layers.convolution import ConvLayer
from lngd.layers.embedding import EmbeddingLayer
from lngd.layers.layer import Layer
from lngd.layers.linear import LinearLayer
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
"""Which modules have curvature. A subclass counts as its parent unless it has a forward of its own."""


def adapter_of(module: nn.Module) -> type[Layer] | None:
    """The adapter for a module, or None if it has none."""
    return None if why_unsupported(module) else _of_kind(module)


def why_unsupported(module: nn.Module) -> str | None:
    """Why a module has no adapter; None if it has one."""
    adapter = _of_kind(module)
    if adapter is None:
        return f"no curvature for {type(module).__name__}"
    return next((reason for reason, holds in adapter.unsupported.items() if holds(module)), None)


def _of_kind(module: nn.Module) -> type[Layer] | None:
    for supported, adapter in LAYERS.items():
        if isinstance(module, supported) and type(module).forward is supported.forward:
            return adapter
    return None
