"""A character GPT on Python's own source, with warm-up and a cosine: python examples/gpt.py"""

import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from lngd import SpectralLNGD

CONTEXT, WIDTH, STEPS, WARMUP = 64, 64, 240, 20
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
text = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in sources)), dtype=torch.uint8).long()


class GPT(nn.Module):
    """Two blocks of torch's own Transformer, which see no later character."""

    def __init__(self):
        super().__init__()
        self.characters, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, **options) for _ in range(2)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, x):
        h = self.characters(x) + self.places.weight
        for block in self.blocks:
            h = block(h, src_mask=self.mask, is_causal=True)
        return self.head(h)


def batch(size=16):
    """Windows of the text, and the same a character later."""
    windows = torch.stack([text[start : start + CONTEXT + 1] for start in torch.randint(len(text) - CONTEXT, (size,))])
    return windows[:, :-1].to(device), windows[:, 1:].to(device)


model = GPT().to(device)
optimizer = SpectralLNGD(model, warmup=0)  # the scheduler warms up
stages = [LinearLR(optimizer, start_factor=0.1, total_iters=WARMUP), CosineAnnealingLR(optimizer, STEPS - WARMUP)]
scheduler = SequentialLR(optimizer, stages, milestones=[WARMUP])
for epoch in range(4):
    losses = []
    for _ in range(STEPS // 4):
        x, y = batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
