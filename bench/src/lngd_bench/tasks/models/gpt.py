"""A small GPT over characters and a vision transformer: separate projections, each a layer of its own for curvature methods."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention; with `causal` no position sees a later one."""

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """`[n, s, d]` → `[n, heads, s, d / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a four times wider perceptron, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class GPT(nn.Module):
    """Characters `[n, s]` → logits `[n, s, vocabulary]`; embeddings start at GPT-2's standard deviation of 0.02."""

    def __init__(self, vocabulary: int, context: int, width: int = 128, *, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.token(x) + self.position(places))))


class ViT(nn.Module):
    """Images `[n, channels, image, image]` → logits `[n, classes]`, the mean over patches instead of a class token.

    The blocks are the GPT's without their causal mask. The defaults are ViT-S for 32×32 images: 64 patches of 4×4.

    Raises:
        ValueError: patches don't tile the image, or the heads don't share the width evenly.
    """

    def __init__(
        self,
        patch: int = 4,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        image: int = 32,
        channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if image % patch or width % heads:
            raise ValueError(f"patch={patch} must divide image={image}, heads={heads} must divide width={width}")
        patches = (image // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Embedding(patches, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        places = torch.arange(tokens.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(tokens + self.position(places))).mean(1))
