"""ResNet-18 for 32×32 images, the network of the paper's Fig. 2 and Table 1."""

from torch import Tensor, nn

from lngd_bench.tasks.models.resnet import Residual


class ResNet18(nn.Module):
    """A 3×3 stem without pooling and four stages of two residual blocks, `width` to 8·`width` channels (32 → 32 → 16 → 8 → 4)."""

    def __init__(self, width: int = 64, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            _stage(width, width, 1),
            _stage(width, 2 * width, 2),
            _stage(2 * width, 4 * width, 2),
            _stage(4 * width, 8 * width, 2),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((-2, -1)))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Residual(inputs, outputs, stride), Residual(outputs, outputs, 1))
