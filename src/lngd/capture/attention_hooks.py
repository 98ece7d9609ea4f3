"""The hooks on nn.MultiheadAttention, whose two projections are layers that nobody calls."""

from typing import Any

import torch
from torch import Tensor, nn

from lngd.capture.attention import (
    Product,
    attention_inputs,
    open_input_projection,
    open_output_projection,
    products_with,
)
from lngd.capture.hooks import LayerCapture
from lngd.layers import AttentionInput


class Capture(LayerCapture):
    """Hooks on a model's layers, attention's among them."""

    def attach_to_layers(self) -> None:
        """Puts the hooks on the layers."""
        super().attach_to_layers()
        for name, module in self.model.named_modules():
            if isinstance(module, nn.MultiheadAttention) and {name, output_projection(name)} & set(self.layers):
                self._hooks.before(module, "before_attention", name, with_kwargs=True)
                self._hooks.after(module, "after_attention", name, with_kwargs=True)

    def before_attention(self, name: str, module: nn.MultiheadAttention, args: tuple, kwargs: dict[str, Any]) -> None:
        """The inputs of an in-projection have arrived."""
        if torch.compiler.is_compiling() or not self._watches_attention(name, module):
            return
        inputs = attention_inputs(args, kwargs)
        if inputs[0].dim() != 3:
            self.refused |= dict.fromkeys((name, output_projection(name)), "attention was called without a batch dimension")
        self._arriving(*{id(x): x for x in inputs}.values())

    def after_attention(
        self, name: str, module: nn.MultiheadAttention, args: tuple, kwargs: dict[str, Any], output: tuple
    ) -> None:
        """Opens what the two projections put out."""
        if torch.compiler.is_compiling() or not (self._watches_attention(name, module) and output[0].requires_grad):
            return
        inputs = attention_inputs(args, kwargs)
        if inputs[0].dim() != 3 or not inputs[0].numel():
            return
        given, projection = (*args, *kwargs.values()), output_projection(name)
        query, key, value = (x if module.batch_first else x.transpose(0, 1) for x in inputs)
        if isinstance(layer := self.layers.get(name), AttentionInput):
            products = products_with(layer.weight, output[0], given)
            self._open_input_projection(name, layer, products, (query, key, value))
        if projection in self.layers:
            products = products_with(self.layers[projection].weight, output[0], given)
            self._open_output_projection(projection, products, len(query))

    def _open_input_projection(
        self, name: str, layer: AttentionInput, products: list[Product], inputs: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """`inputs` are batch first."""
        for product in products:
            if self._wanted(name, len(inputs[0])):
                self.opened(open_input_projection(name, layer, product, inputs, self.forward_id))

    def _open_output_projection(self, name: str, products: list[Product], batch: int) -> None:
        for product in products:
            if self._wanted(name, batch):
                with self.source.alone():
                    x = product.left_operand()
                self._arriving(x)
                self.opened(open_output_projection(name, product, x, batch, self.forward_id))

    def _watches_attention(self, name: str, module: nn.Module) -> bool:
        return self._watches(name, module) or self._watches(output_projection(name), module)


def output_projection(attention: str) -> str:
    """The name of the out-projection of an nn.MultiheadAttention."""
    return f"{attention}.out_proj" if attention else "out_proj"
