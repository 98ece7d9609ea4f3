"""Curvature for weights that no module's call stands for, on and off: the table in `docs/layers.md`."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim import Optimizer

from lngd_bench.competitors.optimizers import Setting
from lngd_bench.ledger import Line
from lngd_bench.studies.results import markdown
from lngd_bench.studies.variants.changes import Wanted, last_epoch
from lngd_bench.studies.variants.raw import METHODS
from lngd_bench.tasks import TASKS

STEPS, TASK, STATES = 300, "fashion-cnn", 64


class Standardised(nn.Conv2d):
    """Its kernels are standardised and scaled before use, as those of NFNets are."""

    def __init__(self, inputs: int, outputs: int, size: int, **options: Any) -> None:
        super().__init__(inputs, outputs, size, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, average = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        fan_in = self.weight[0].numel()
        kernel = 1.7 * self.gain * (self.weight - average) / (fan_in * variance + 1e-4).sqrt()
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding)


def weight_normed(inputs: int, outputs: int, size: int, **options: Any) -> nn.Module:
    """A convolution whose kernels are a length times a direction."""
    return parametrizations.weight_norm(nn.Conv2d(inputs, outputs, size, **options))


class Residual(nn.Module):
    """x + 0.2 of two convolutions."""

    def __init__(self, convolution: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.first, self.second = (convolution(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.second(F.relu(self.first(F.relu(x))))


def residual_network(convolution: Callable[..., nn.Module]) -> nn.Module:
    """Without any normalisation of activations."""
    narrow, middle, wide = 16, 32, 64
    return nn.Sequential(
        *(convolution(1, narrow, 3, padding=1), Residual(convolution, narrow)),
        *(convolution(narrow, middle, 3, stride=2, padding=1), Residual(convolution, middle)),
        *(convolution(middle, wide, 3, stride=2, padding=1), Residual(convolution, wide)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10)),
    )


class Rows(nn.Module):
    """A recurrent network reads an image row by row; its last output is classified."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.recurrent, self.head = kind(28, STATES, batch_first=True), nn.Linear(STATES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "kernels standardised": partial(residual_network, Standardised),
    "kernels weight-normed": partial(residual_network, weight_normed),
    "nn.LSTM": partial(Rows, nn.LSTM),
    "nn.GRU": partial(Rows, nn.GRU),
}


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    task = TASKS[TASK]
    data = task.data(None).first(task.samples)
    for model, (name, (method, rates)) in product(MODELS, METHODS.items()):
        own = replace(task, steps=STEPS, epoch_steps=STEPS, model=MODELS[model])
        for lr, seed, curvature in product(rates, given.seeds, (True, False)):
            about = {"model": model, "steps": STEPS, "optimizer": name, "lr": lr, "seed": seed, "curvature": curvature}
            yield about, partial(last_epoch, own, partial(built, method, curvature), lr, seed, data)


def built(method: Callable[..., Optimizer], curvature: bool, model: nn.Module, setting: Setting) -> Optimizer:
    """With curvature everywhere, or with none for matrices but those of plain layers."""
    plain = {id(p) for module in model.modules() if type(module) is nn.Linear for p in module.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) in plain]}]
    groups.append({"params": [p for p in model.parameters() if id(p) not in plain], "curvature": None if curvature else False})
    return method(model, groups, lr=setting.lr, mean_over=setting.mean_over)


def table(lines: Sequence[Line]) -> str:
    """The means over seeds: loss of the last training batches, and accuracy in per cent."""
    rows = dict.fromkeys((line["model"], line["optimizer"], line["lr"]) for line in lines)

    def cell(row: tuple[str, str, float], curvature: bool) -> str:
        own = [line for line in lines if (line["model"], line["optimizer"], line["lr"]) == row and line["curvature"] is curvature]
        if any(line["diverged"] for line in own):
            return "diverges"
        return f"{mean(line['train_loss'] for line in own):.3f}, {100 * mean(line['metric'] for line in own):.2f}"

    names = ("", "optimizer", "lr", "under curvature", "by AdamW")
    return markdown(names, [[row[0], row[1], f"{row[2]:g}", cell(row, True), cell(row, False)] for row in rows], words=2)
