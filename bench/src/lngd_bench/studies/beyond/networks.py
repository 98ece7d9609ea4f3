"""A perceptron and a transformer's block, of which several tasks are made."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def layers(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear ones with an activation between them."""
    each = [module for inputs, outputs in pairwise(widths) for module in (nn.Linear(inputs, outputs), activation())]
    return nn.Sequential(*each[:-1])


class Block(nn.Module):
    """Normalised before: attention, then a perceptron."""

    def __init__(self, width: int, *, heads: int = 2, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = layers(width, 2 * width, width, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norms[0](x)
        q, k, v = (each(normal).unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))
