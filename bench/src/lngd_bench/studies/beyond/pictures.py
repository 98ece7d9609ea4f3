"""Pictures as functions of place, as something to be freed of noise, and as something to be classified by a ConvNeXt."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import layers
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, digits, drawn, half_square, root_mean_square
from lngd_bench.tasks.data import Split

SIDE = 64
NOISE = 0.7
"""Standard deviations of the pixels."""


@cache
def photograph() -> Split:
    """scikit-learn's flower, grey and averaged down to 64 × 64: places `[n, 2]` and values, half of them held out."""
    from sklearn.datasets import load_sample_image

    grey = torch.tensor(load_sample_image("flower.jpg")).float().mean(2)[:, 100:527]
    picture = F.interpolate(grey[None, None], (SIDE, SIDE), mode="area").flatten()
    places = torch.cartesian_prod(*[torch.linspace(-1, 1, SIDE)] * 2)
    order = torch.randperm(SIDE**2, generator=Generator().manual_seed(0))
    train, test = order.chunk(2)
    values = ((picture - picture[train].mean()) / picture[train].std()).unsqueeze(1)
    return Split(places[train], values[train], places[test], values[test])


class OfPlace(nn.Module):
    """A perceptron on random Fourier features of a place."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(6 * torch.randn(2, 48))
        self.net = layers(96, 96, 96, 1, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        angles = x @ self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], 1))


def photograph_loss(model: nn.Module, draw: Generator) -> Tensor:
    x, y = drawn(photograph(), 256, draw)
    return half_square(model(x) - y)


def photograph_error(model: nn.Module) -> float:
    return root_mean_square(model(photograph().test_x) - photograph().test_y)


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    """Three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolved(1, 8), convolved(8, 16)])
        self.bottom = convolved(16, 32)
        self.grow = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.up = nn.ModuleList([convolved(32, 16), convolved(16, 8)])
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for down in self.down:
            seen.append(down(x))
            x = F.max_pool2d(seen[-1], 2)
        x = self.bottom(x)
        for grow, up in zip(self.grow, self.up, strict=True):
            x = up(torch.cat([grow(x), seen.pop()], 1))
        return self.last(x)


def enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def noise_loss(model: nn.Module, draw: Generator) -> Tensor:
    """Summed over pixels: the log-likelihood of a picture."""
    clean = enlarged(drawn(digits(), 32, draw)[0])
    return half_square((model(clean + NOISE * torch.randn(clean.shape, generator=draw)) - clean).flatten(1))


def noise_error(model: nn.Module) -> float:
    clean = enlarged(digits().test_x)
    return root_mean_square(model(clean + NOISE * torch.randn(clean.shape, generator=Generator().manual_seed(0))) - clean)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a perceptron on the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mix = layers(width, 4 * width, width, activation=nn.GELU)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * mixed).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A block at 8 × 8 and one at 4 × 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        shrink = nn.Conv2d(16, 32, 2, 2)
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), ConvNeXtBlock(16), shrink, ConvNeXtBlock(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x).mean((2, 3))))


def class_loss(model: nn.Module, draw: Generator) -> Tensor:
    x, y = drawn(digits(), 32, draw)
    return F.cross_entropy(model(x), y)


def class_error(model: nn.Module) -> float:
    return F.cross_entropy(model(digits().test_x), digits().test_y).item()


PHOTOGRAPH = Task(
    title="Fourier features and MLP, a photograph",
    model=OfPlace,
    loss=photograph_loss,
    held_out=photograph_error,
    measure="RMSE at other pixels",
    steps=400,
    fisher=GAUSSIAN,
)
DENOISING = Task(
    title="U-Net, denoising of digits",
    model=UNet,
    loss=noise_loss,
    held_out=noise_error,
    measure="RMSE of a pixel",
    steps=200,
    fisher=GAUSSIAN,
)
CONVNEXT = Task(
    title="ConvNeXt, digits",
    model=ConvNeXt,
    loss=class_loss,
    held_out=class_error,
    measure="cross-entropy",
    steps=200,
)
