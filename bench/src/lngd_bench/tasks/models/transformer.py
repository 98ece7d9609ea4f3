"""The encoder–decoder of Vaswani et al. 2017 with one embedding for both languages and the output, a LayerNorm before each part.

The projections of attention have no biases, as in the authors' own code, and each is a layer of its own for curvature methods.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

BIG = {"width": 1024, "heads": 16, "layers": 6, "inner": 4096}
PAD, BEGIN, END = range(3)  # ids that every vocabulary begins with; no position attends to padding

Memory = tuple[Tensor, Tensor]
"""Keys and values `[n, heads, s, d / heads]`."""


class Sentences(NamedTuple):
    """What the model reads and what it has written so far, ids `[n, s]` and `[n, t]`, padded on the right."""

    source: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> "Sentences":
        return Sentences(self.source.to(device), self.target.to(device))


class Attention(nn.Module):
    """Multi-head attention; keys and values can be kept from one position to the next."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        """`mask` `[n, 1, 1 or s, t]` is true where a position may look; None: everywhere."""
        mixed = functional.scaled_dot_product_attention(self._split(self.query(x)), *memory, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def memory(self, x: Tensor) -> Memory:
        """Keys and values of positions that others look at."""
        return self._split(self.key(x)), self._split(self.value(x))

    def _split(self, x: Tensor) -> Tensor:
        """`[n, s, d]` → `[n, heads, s, d / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """A perceptron on each position."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width))


class Encoder(nn.Module):
    """One layer: self-attention and a perceptron."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = Attention(width, heads), FeedForward(width, inner, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inner = self.attention_norm(x)
        x = x + self.dropout(self.attention(inner, self.attention.memory(inner), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Decoder(nn.Module):
    """One layer: attention to what is written, attention to what was read, a perceptron."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Memory, source_mask: Tensor, past: Memory | None = None) -> tuple[Tensor, Memory]:
        """Without a past every position but the last is blind to later ones; with one, `x` is what follows it."""
        inner = self.attention_norm(x)
        own = joined(past, self.attention.memory(inner))
        x = x + self.dropout(self.attention(inner, own, None if past else causal(x)))
        x = x + self.dropout(self.cross(self.cross_norm(x), source, source_mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), own


class Reading(NamedTuple):
    """What the decoder knows: of each layer the keys and values of the source, where they count, and of what is written."""

    source: list[Memory]
    mask: Tensor
    past: list[Memory | None]

    def at(self, rows: Tensor) -> "Reading":
        """The same of other rows, as a beam search chooses them."""
        source = [(key[rows], value[rows]) for key, value in self.source]
        past = [(pair[0][rows], pair[1][rows]) if pair else None for pair in self.past]
        return Reading(source, self.mask[rows], past)


class Transformer(nn.Module):
    """Sentences → logits `[n, t, vocabulary]` of what follows each position of the target."""

    def __init__(self, vocabulary: int, *, width: int, heads: int, layers: int, inner: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.encoder = nn.ModuleList(Encoder(width, heads, inner, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(Decoder(width, heads, inner, dropout) for _ in range(layers))
        self.encoder_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, sentences: Sentences) -> Tensor:
        return self.continued(sentences.target, self.read(sentences.source))[0]

    def read(self, source: Tensor) -> Reading:
        """The encoder's work."""
        mask = (source != PAD)[:, None, None, :]
        x = self._embedded(source)
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        seen = [layer.cross.memory(x) for layer in self.decoder if isinstance(layer, Decoder)]
        return Reading(seen, mask, [None] * len(seen))

    def continued(self, target: Tensor, reading: Reading, place: int = 0) -> tuple[Tensor, Reading]:
        """Logits after each of `target`'s words, whose first stands at `place`, and what the decoder then knows."""
        x = self._embedded(target, place)
        past = []
        for layer, source, before in zip(self.decoder, reading.source, reading.past, strict=True):
            x, own = layer(x, source, reading.mask, before)
            past.append(own)
        return functional.linear(self.norm(x), self.embedding.weight), reading._replace(past=past)

    def _embedded(self, tokens: Tensor, place: int = 0) -> Tensor:
        width = self.embedding.embedding_dim
        x = self.embedding(tokens) * math.sqrt(width)
        places = torch.arange(place, place + tokens.shape[1], device=tokens.device)
        return self.dropout(x + sinusoids(places, width).to(x.dtype))


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Positions `[s, d]`: sin and cos of place / 10000^(2k/d), in halves (Vaswani et al. 2017, sec. 3.5)."""
    frequencies = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10000.0) / width))
    angles = places[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def causal(x: Tensor) -> Tensor:
    """A mask `[1, 1, s, s]`: no position sees a later one."""
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[None, None]


def joined(past: Memory | None, new: Memory) -> Memory:
    """Keys and values one after the other."""
    return (torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2)) if past else new
