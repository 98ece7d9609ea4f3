"""nn.Module → (a, g): after this package every supported module is a linear layer."""

from lngd.layers.attention import AttentionInput, in_groups
from lngd.layers.convolution import ConvLayer
from lngd.layers.embedding import EmbeddingLayer
from lngd.layers.kinds import LAYERS, adapter_of, why_unsupported
from lngd.layers.layer import Layer
from lngd.layers.linear import LinearLayer
from lngd.layers.patches import Patches
from lngd.layers.transposed import ConvTransposeLayer

__all__ = [
    "LAYERS",
    "AttentionInput",
    "ConvLayer",
    "ConvTransposeLayer",
    "EmbeddingLayer",
    "Layer",
    "LinearLayer",
    "Patches",
    "adapter_of",
    "in_groups",
    "why_unsupported",
]
