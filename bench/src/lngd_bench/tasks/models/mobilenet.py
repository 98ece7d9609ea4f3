"""MobileNet-v1: each convolution split into a depthwise and a pointwise one, both with BatchNorm and ReLU."""

from collections.abc import Sequence

from torch import Tensor, nn

Stage = tuple[int, int]
"""Output channels and stride of one depthwise-separable convolution."""

V1: tuple[Stage, ...] = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""The stages of the original, Howard et al. 2017, Table 1."""


class MobileNet(nn.Module):
    """A 3×3 stem of `stem` channels, the separable stages, a mean over positions and a linear head.

    With the original's stages and `stem_stride=1` a 32×32 image ends as 2×2 positions of 1024 channels.
    """

    def __init__(
        self, stages: Sequence[Stage] = V1, stem: int = 32, *, stem_stride: int = 1, channels: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        inputs = (stem, *(outputs for outputs, _ in stages))
        self.stem = _convolution(channels, stem, 3, stride=stem_stride)
        self.stages = nn.Sequential(*(_separable(i, o, stride) for i, (o, stride) in zip(inputs, stages, strict=False)))
        self.head = nn.Linear(inputs[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((-2, -1)))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, inputs, 3, stride=stride, groups=inputs), _convolution(inputs, outputs, 1))


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
