"""ResNet-50: bottlenecks, whose cheap 1×1 convolutions have many inputs, which is what curvature pays for."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

DEPTHS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 down to `width` channels, 3×3, 1×1 up to four times as many, beside a shortcut.

    The last γ starts at 0, so that the block starts as its shortcut (Goyal et al. 2017, sec. 5.1).
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.reduce = _convolution(inputs, width, 1)
        self.spread = _convolution(width, width, 3, stride)
        self.expand = _convolution(width, outputs, 1, scale=0.0)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.spread(functional.relu(self.reduce(x))))
        return functional.relu(self.expand(inner) + self.shortcut(x))


class ResNet50(nn.Module):
    """ImageNet's: a 7×7 stem of stride 2, a pool, four stages of `width` to 8·`width` channels (64 → 16 → 16 → 8 → 4 → 2)."""

    def __init__(self, width: int = 64, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(channels, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
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


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *, scale: float = 1.0) -> nn.Sequential:
    """With its BatchNorm, whose γ starts at `scale`."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(convolution, norm)
