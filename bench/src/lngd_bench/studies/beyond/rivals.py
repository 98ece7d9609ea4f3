"""The six optimizers, with the rates that each of them is tried at."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

import lngd
from lngd.methods import Method
from lngd_bench.competitors import peers
from lngd_bench.competitors.muon import Float32Muon, MuonWithAdamW
from lngd_bench.competitors.optimizers import default_of
from lngd_bench.studies.beyond.task import Task


@dataclass(frozen=True)
class Rates:
    """`ratio`: AdamW's rate for what the optimizer itself does not take, over lr; None where there is one rate or it stays."""

    lr: float
    ratio: float | None = None


@dataclass(frozen=True)
class Rival:
    """`untuned`: the default, or what is customary."""

    title: str
    build: Callable[[nn.Module, Task, Rates], Optimizer]
    untuned: Rates


def _adamw(model: nn.Module, _: Task, rates: Rates) -> Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return AdamW(trained, lr=rates.lr, weight_decay=0.0)


def _muon(model: nn.Module, _: Task, rates: Rates) -> Optimizer:
    assert rates.ratio is not None
    return MuonWithAdamW(model, rates.lr, muon=Float32Muon, rest=rates.ratio)


def _soap(model: nn.Module, _: Task, rates: Rates) -> Optimizer:
    return peers.soap(model, rates.lr, 0.0)


def _method(method: type[Method], model: nn.Module, task: Task, rates: Rates, **more: Any) -> Optimizer:
    """Without what it says of rates, for a search tries them of every size."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lr=")
        return method(model, lr=rates.lr, mean_over=task.mean_over, **more)


def _kfac(model: nn.Module, task: Task, rates: Rates) -> Optimizer:
    return _method(lngd.KFAC, model, task, rates, fisher=task.fisher)


def _ours(title: str, method: type[Method]) -> Rival:
    """Nothing but its two rates is set."""

    def build(model: nn.Module, task: Task, rates: Rates) -> Optimizer:
        return _method(method, model, task, rates, adamw_lr_ratio=rates.ratio)

    return Rival(title, build, Rates(default_of(method, "lr"), default_of(method, "adamw_lr_ratio")))


RIVALS: Mapping[str, Rival] = {
    "adamw": Rival("AdamW", _adamw, Rates(1e-3)),
    "muon": Rival("Muon", _muon, Rates(0.01, 0.2)),
    "soap": Rival("SOAP", _soap, Rates(3e-3)),
    "kfac": Rival("K-FAC", _kfac, Rates(default_of(lngd.KFAC, "lr"))),
    "lngd": _ours("LNGD", lngd.LNGD),
    "lngd-spectral": _ours("Spectral LNGD", lngd.SpectralLNGD),
}
