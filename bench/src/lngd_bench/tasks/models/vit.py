"""A vision transformer: the GPT's blocks without their causal mask over patches of an image."""

import torch
from torch import Tensor, nn

from lngd_bench.tasks.models.gpt import Block


class ViT(nn.Module):
    """Images `[n, channels, image, image]` → logits `[n, classes]`, the mean over patches instead of a class token.

    The defaults are ViT-S for 32×32 images: 64 patches of 4×4. The position embedding is a table of vectors that are
    learnt, as in the GPT, with a standard deviation of 0.02 at the start.

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
