"""The competitors, by name. A row builds an optimizer from a model and a setting, nothing else differs between runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

import lngd
from lngd.bench.muon import MuonWithAdamW
from lngd.bench.task import MeanOver


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the runner decides: `lr` in the optimizer's own units; the rest is the same for all."""

    lr: float
    weight_decay: float = 0.0
    mean_over: MeanOver = "batch"


@dataclass(frozen=True)
class Competitor:
    """One row.

    Attributes:
        customary: the learning rate in the middle of the tuning grid.
        cost: seconds of a step over an SGD step's, roughly; only the estimate of a race's length uses it.
    """

    title: str
    build: Callable[[nn.Module, Setting], Optimizer]
    customary: float
    cost: float


def _sgd(model: nn.Module, setting: Setting) -> Optimizer:
    return torch.optim.SGD(model.parameters(), setting.lr, momentum=0.9, nesterov=True, weight_decay=setting.weight_decay)


def _adamw(model: nn.Module, setting: Setting) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), setting.lr, weight_decay=setting.weight_decay)


def _muon(model: nn.Module, setting: Setting) -> Optimizer:
    return MuonWithAdamW(model, lr=setting.lr, weight_decay=setting.weight_decay)


def _lngd(model: nn.Module, setting: Setting) -> Optimizer:
    return lngd.LNGD(model, lr=setting.lr, weight_decay=setting.weight_decay, mean_over=setting.mean_over)


def _lngd_sample(model: nn.Module, setting: Setting) -> Optimizer:
    return lngd.LNGDSample(model, lr=setting.lr, weight_decay=setting.weight_decay, mean_over=setting.mean_over)


def _lngd_paper(model: nn.Module, setting: Setting) -> Optimizer:
    """The paper's recipe, except that the setting decides weight decay: it is the same for all competitors."""
    run = {"lr": setting.lr, "weight_decay": setting.weight_decay, "mean_over": setting.mean_over}
    return lngd.LNGD(model, **{**lngd.PAPER, **run})


OPTIMIZERS: Mapping[str, Competitor] = {
    "sgd": Competitor("SGD", _sgd, 0.1, 1.0),
    "adamw": Competitor("AdamW", _adamw, 0.002, 1.1),
    "muon": Competitor("Muon", _muon, 0.01, 1.5),
    "lngd": Competitor("LNGD", _lngd, 0.5, 2.0),
    "lngd-sample": Competitor("LNGD-sample", _lngd_sample, 0.1, 1.7),
    "lngd-paper": Competitor("LNGD, paper's recipe", _lngd_paper, 0.01, 2.0),
}
DEFAULT_OPTIMIZERS = "sgd,adamw,muon,lngd"  # as the command line writes them
