"""ResNets with BatchNorm, the networks of the paper: a small one, ResNet-18 for 32×32 images and ResNet-50."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

DEPTHS = (3, 4, 6, 3)  # bottlenecks of ResNet-50 by stage
EXPANSION = 4  # output channels of a bottleneck, in widths


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem that halves the image and one residual block a width (28 → 14 → 14 → 7 → 4)."""

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(_convolution(1, first, 3, 2), nn.ReLU())
        self.blocks = nn.Sequential(Residual(first, first, 1), Residual(first, second, 2), Residual(second, third, 2))
        self.head = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((-2, -1)))


class ResNet18(nn.Module):
    """A 3×3 stem without pooling and four stages of two residual blocks, `width` to 8·`width` channels (32 → 32 → 16 → 8 → 4)."""

    def __init__(self, width: int = 64, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages = ((width, width, 1), *((width * 2**stage, width * 2 ** (stage + 1), 2) for stage in range(3)))
        self.stages = nn.Sequential(*(nn.Sequential(Residual(*own), Residual(own[1], own[1], 1)) for own in stages))
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((-2, -1)))


class Bottleneck(nn.Module):
    """1×1 down to `width` channels, 3×3, 1×1 up to four times as many, beside a shortcut.

    Its cheap 1×1 convolutions have many inputs, which is what curvature pays for. The last γ starts at 0, so that the block
    starts as its shortcut (Goyal et al. 2017, sec. 5.1).
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.reduce = _kaiming(inputs, width, 1)
        self.spread = _kaiming(width, width, 3, stride)
        self.expand = _kaiming(width, outputs, 1, scale=0.0)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _kaiming(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.spread(functional.relu(self.reduce(x))))
        return functional.relu(self.expand(inner) + self.shortcut(x))


class ResNet50(nn.Module):
    """ImageNet's: a 7×7 stem of stride 2, a pool, four stages of `width` to 8·`width` channels (64 → 16 → 16 → 8 → 4 → 2)."""

    def __init__(self, width: int = 64, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(_kaiming(channels, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        self.stages = nn.Sequential(*_bottlenecks(width))
        self.head = nn.Linear(8 * EXPANSION * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((-2, -1)))


def _bottlenecks(width: int) -> Iterator[Bottleneck]:
    inputs = width
    for stage, depth in enumerate(DEPTHS):
        own = width * 2**stage
        for place in range(depth):
            yield Bottleneck(inputs, own, 2 if stage and not place else 1)
            inputs = EXPANSION * own


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _kaiming(inputs: int, outputs: int, kernel: int, stride: int = 1, *, scale: float = 1.0) -> nn.Sequential:
    """Starts as torchvision's; the γ of its BatchNorm at `scale`."""
    convolution, norm = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(convolution, norm)
