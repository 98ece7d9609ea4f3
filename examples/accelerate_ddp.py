"""Accelerate: accelerate launch --num_processes 2 examples/accelerate_ddp.py"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader

from lngd import SpectralLNGD
from patterns import Patterns, classifier

accelerator = Accelerator()
torch.manual_seed(0)
model = classifier()
optimizer = SpectralLNGD(model)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(Patterns(), 64, shuffle=True))
for epoch in range(4):
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    accelerator.print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
accelerator.end_training()
