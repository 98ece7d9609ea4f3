"""Rows: every kind of convolution, forward and transposed."""

import torch
from torch import nn

from compatibility.exact import assert_exact
from compatibility.runs import assert_trains, inputs, learnable
from compatibility.table import group
from lngd.methods import Method

convolutions = group("Convolutions")

EXACT = "curvature: statistics equal loops over samples and pixels in float64; every parameter moves, the loss falls"
GROUPWISE = EXACT.replace("statistics", "the statistics of each group")


def network(module: nn.Module, *shape: int) -> nn.Sequential:
    """The module and a head."""
    features = module(torch.zeros(1, *shape)).numel()
    return nn.Sequential(module, nn.Tanh(), nn.Flatten(), nn.Linear(features, 3))


def exact_and_trained(method: type[Method], module: nn.Module, *shape: int) -> None:
    assert_exact(method, network(module, *shape), "0", inputs(4, *shape))
    module.float().reset_parameters()
    assert_trains(method, network(module, *shape), *learnable(32, *shape), curved={"0", "3"})


@convolutions("Conv1d", EXACT)
def conv1d(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv1d(2, 3, 3, stride=2, padding=1), 2, 7)


@convolutions("Conv2d", EXACT)
def conv2d(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(2, 3, (3, 2), stride=(2, 1)), 2, 5, 4)


@convolutions("Conv3d", EXACT)
def conv3d(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv3d(2, 3, 2, bias=False), 2, 2, 3, 3)


@convolutions("Grouped convolution", GROUPWISE)
def grouped_convolution(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(4, 6, 2, groups=2), 4, 3, 3)


@convolutions("Depthwise convolution", GROUPWISE)
def depthwise_convolution(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(3, 3, 2, groups=3), 3, 3, 3)


@convolutions("Dilated convolution", EXACT)
def dilated_convolution(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(2, 3, 2, dilation=2), 2, 4, 4)


@convolutions('`padding="same"`', EXACT)
def same_padding(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(2, 3, 3, padding="same"), 2, 3, 3)


@convolutions('`padding_mode="reflect"`', EXACT)
def reflect_padding(method: type[Method]) -> None:
    exact_and_trained(method, nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), 2, 3, 3)


@convolutions("ConvTranspose1d", EXACT)
def conv_transpose1d(method: type[Method]) -> None:
    exact_and_trained(method, nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1), 2, 3)


@convolutions("ConvTranspose2d", GROUPWISE)
def conv_transpose2d(method: type[Method]) -> None:
    exact_and_trained(method, nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2, output_padding=1), 2, 2, 2)


@convolutions("ConvTranspose3d", EXACT)
def conv_transpose3d(method: type[Method]) -> None:
    exact_and_trained(method, nn.ConvTranspose3d(2, 3, 2, bias=False), 2, 2, 2, 2)
