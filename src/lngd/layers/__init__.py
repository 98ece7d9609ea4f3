"""nn.Module → (a, g): after this package every supported module is a linear layer."""

from lngd.layers.attention import AttentionInput, in_groups
from lngd.layers.check import check_layer
from lngd.layers.convolution import ConvLayer
from lngd.layers.embedding import EmbeddingLayer
from lngd.layers.kinds import BY_LOOKS, LAYERS, adapter_of, register_layer, why_unsupported
from lngd.layers.layer import Layer
from lngd.layers.linear import Conv1DLayer, LinearLayer
from lngd.layers.patches import Patches
from lngd.layers.transposed import ConvTransposeLayer
from lngd.layers.used import ExpertsLayer, Form, Found, filled

__all__ = [
    "BY_LOOKS",
    "LAYERS",
    "AttentionInput",
    "Conv1DLayer",
    "ConvLayer",
    "ConvTransposeLayer",
    "EmbeddingLayer",
    "ExpertsLayer",
    "Form",
    "Found",
    "Layer",
    "LinearLayer",
    "Patches",
    "adapter_of",
    "check_layer",
    "filled",
    "in_groups",
    "register_layer",
    "why_unsupported",
]
