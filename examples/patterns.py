"""What the examples train: a small network on noisy patterns, made here."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Patterns(TensorDataset):
    """1,024 noisy copies of ten patterns of 64 numbers."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        kinds = torch.randint(0, 10, (1024,), generator=generator)
        patterns = torch.randn(10, 64, generator=generator)
        super().__init__(patterns[kinds] + 1.5 * torch.randn(1024, 64, generator=generator), kinds)


def block(width):
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def classifier(width=32):
    return nn.Sequential(nn.Linear(64, width), block(width), block(width), nn.Linear(width, 10))


def train(model, optimizer, epochs=4):
    """The usual loop, in one process."""
    device = next(model.parameters()).device
    for epoch in range(epochs):
        losses = []
        for x, y in DataLoader(Patterns(), 64, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
