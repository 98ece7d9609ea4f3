"""A ResNet on gratings in bfloat16, saved half-way and resumed: python examples/resnet.py"""

import tempfile
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lngd import SpectralLNGD

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)


def gratings(count=1024, size=16, directions=8):
    """Noisy waves of any phase and length; the class is their direction."""
    kinds, phase, length = torch.randint(directions, (count,)), 6.3 * torch.rand(count, 1, 1), 4 + 2 * torch.rand(count, 1, 1)
    angle = (kinds * torch.pi / directions).view(-1, 1, 1)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = torch.sin(6.3 / length * (x * angle.cos() + y * angle.sin()) + phase)
    return TensorDataset((waves + 1.5 * torch.randn(count, size, size)).unsqueeze(1), kinds)


class Residual(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.body = nn.Sequential(conv(i, o, stride=stride), nn.BatchNorm2d(o), nn.ReLU(), conv(o, o), nn.BatchNorm2d(o))
        self.way = nn.Identity() if stride == 1 else nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.body(x) + self.way(x))


def build():
    body = [conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8), Residual(8, 16, 2), Residual(16, 32, 2)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8)).to(device)
    return model, SpectralLNGD(model)


loader = DataLoader(gratings(), 64, shuffle=True)
model, optimizer = build()
for epoch in range(4):
    if epoch == 2:
        with tempfile.TemporaryDirectory() as folder:
            torch.save([model.state_dict(), optimizer.state_dict()], folder + "/half-way.pt")
            weights, state = torch.load(folder + "/half-way.pt", map_location=device, weights_only=True)
        model, optimizer = build()  # as another run does
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
