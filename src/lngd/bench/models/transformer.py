"""The encoder–decoder of Vaswani et al. 2017, base size, with a LayerNorm before each part and separate projections."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lngd.bench.models.gpt import Attention


class CrossAttention(nn.Module):
    """Queries from the decoder, keys and values from what the encoder made."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        query, key, value = (self._split(t) for t in (self.query(x), self.key(memory), self.value(memory)))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """`[n, s, d]` → `[n, heads, s, d / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Self-attention, in the decoder attention to the encoder's output, a perceptron; each behind a LayerNorm."""

    def __init__(self, width: int, heads: int, inner: int, *, decodes: bool = False) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=decodes)
        self.cross_norm = nn.LayerNorm(width) if decodes else None
        self.cross = CrossAttention(width, heads) if decodes else None
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            x = x + self.cross(self.cross_norm(x), memory)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """Two sequences of tokens `[n, s]`, `[n, t]` → logits `[n, t, vocabulary]` of what follows in the second."""

    def __init__(
        self, vocabulary: int, context: int, width: int = 512, *, heads: int = 8, layers: int = 6, inner: int = 2048
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.encoder = nn.Sequential(*(Layer(width, heads, inner) for _ in range(layers)))
        self.decoder = nn.ModuleList(Layer(width, heads, inner, decodes=True) for _ in range(layers))
        self.encoder_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.encoder_norm(self.encoder(self._embedded(source)))
        x = self._embedded(target)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.head(self.norm(x))

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
