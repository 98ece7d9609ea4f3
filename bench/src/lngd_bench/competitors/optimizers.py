"""The competitors, by name. A row builds an optimizer from a model and a setting, nothing else differs between runs."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from torch.optim import Muon, Optimizer

import lngd
from lngd.methods import Method
from lngd.optimizer.hyperparameters import as_schedule, as_step_size
from lngd_bench.competitors import peers
from lngd_bench.competitors.muon import Float32Muon, MuonWithAdamW
from lngd_bench.competitors.normuon import CautiousMuon, HyperballMuon, NorMuon
from lngd_bench.competitors.trust_region import ScheduledKLClip
from lngd_bench.tasks.task import MeanOver


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the runner decides.

    `lr` and `damping` are in the optimizer's own units; `interval` is T_FIM = T_INV, the `schedule` of our methods; `rest` is
    AdamW's rate for what the optimizer itself does not take, over lr, in units of the competitor's own such ratio (1 for Muon).
    None is its default. What remains is the same for all.
    """

    lr: float
    damping: float | None = None
    weight_decay: float = 0.0
    mean_over: MeanOver = "batch"
    interval: int | None = None
    rest: float | None = None


@dataclass(frozen=True)
class Competitor:
    """One row.

    Attributes:
        customary: the learning rate in the middle of the tuning grid.
        cost: seconds of a step over an SGD step's, roughly; only the estimate of a race's length uses it.
        third_party: the package that must be installed; empty for what torch and this library have.
        damping: the default one; None for an optimizer without.
        defaults: all hyperparameters of a method of ours, as they are now; empty for other people's.
        two_rates: AdamW takes a part of the parameters, at a rate of its own (`Setting.rest`).
    """

    title: str
    build: Callable[[nn.Module, Setting], Optimizer]
    customary: float
    cost: float
    third_party: str = ""
    damping: float | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    two_rates: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the defaults: records that were made with others have another one. Empty for other people's optimizers."""
        return sha256(repr(sorted(self.defaults.items())).encode()).hexdigest()[:8] if self.defaults else ""


def _sgd(model: nn.Module, setting: Setting) -> Optimizer:
    return torch.optim.SGD(model.parameters(), setting.lr, momentum=0.9, nesterov=True, weight_decay=setting.weight_decay)


def _adamw(model: nn.Module, setting: Setting) -> Optimizer:
    fused = next(model.parameters()).is_cuda  # the fastest of torch's three there
    return torch.optim.AdamW(model.parameters(), setting.lr, weight_decay=setting.weight_decay, fused=fused or None)


def _plain(build: Callable[[nn.Module, float, float], Optimizer]) -> Callable[[nn.Module, Setting], Optimizer]:
    """Of one that takes a rate and a weight decay."""
    return lambda model, setting: build(model, setting.lr, setting.weight_decay)


def _muon(title: str, muon: type[Muon], cost: float) -> Competitor:
    def build(model: nn.Module, setting: Setting) -> Optimizer:
        rest = 1.0 if setting.rest is None else setting.rest
        return MuonWithAdamW(model, setting.lr, setting.weight_decay, muon=muon, rest=rest)

    return Competitor(title, build, 0.01, cost, two_rates=True)


def _of_setting(setting: Setting, ratio: float) -> dict[str, Any]:
    """`ratio`: AdamW's rate over lr, as the method has it."""
    named = {"lr": setting.lr, "weight_decay": setting.weight_decay, "mean_over": setting.mean_over}
    rest = None if setting.rest is None else setting.rest * ratio
    chosen = {"damping": setting.damping, "adamw_lr_ratio": rest}
    return named | {name: value for name, value in chosen.items() if value is not None}


def default_of(method: type[Method], name: str) -> Any:
    """Of an argument of a method of ours."""
    return inspect.signature(method).parameters[name].default


OF_THE_DATA = ("batch_dim", "process_group")
"""Arguments that say how the data lie, and with whom a model is shared: no run differs by their default."""


def _family(title: str, method: type[Method], cost: float, **changed: Any) -> Competitor:
    """A method of this library at its own defaults, of which the rate is the customary one.

    Args:
        changed: arguments that have another default here.
    """
    signature = {name: parameter.default for name, parameter in inspect.signature(method).parameters.items()}
    defaults = {name: value for name, value in signature.items() if value is not inspect.Parameter.empty} | changed
    shown = {name: repr(value) for name, value in defaults.items() if name not in OF_THE_DATA}
    if "step_size" in defaults:
        shown["step_size"] = repr(as_step_size(defaults["step_size"]))

    def build(model: nn.Module, setting: Setting) -> Optimizer:
        chosen = _of_setting(setting, defaults["adamw_lr_ratio"])
        if setting.interval is not None:
            chosen["schedule"] = as_schedule(setting.interval, defaults["schedule"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lr=")  # a search tries rates of every size
            return method(model, **(changed | chosen))

    return Competitor(title, build, defaults["lr"], cost, damping=defaults["damping"], defaults=shown, two_rates=True)


OPTIMIZERS: Mapping[str, Competitor] = {
    "sgd": Competitor("SGD", _sgd, 0.1, 1.0),
    "adamw": Competitor("AdamW", _adamw, 0.002, 1.1),
    "muon": _muon("Muon", Muon, 1.5),
    "muon-fp32": _muon("Muon, float32", Float32Muon, 1.3),
    "normuon": _muon("NorMuon", NorMuon, 1.3),
    "muon-cautious": _muon("Muon, cautious decay", CautiousMuon, 1.3),
    "muon-hyperball": _muon("Muon, norms kept", HyperballMuon, 1.3),
    "soap": Competitor("SOAP", _plain(peers.soap), 0.003, 2.5, "pytorch_optimizer"),
    "shampoo": Competitor("Shampoo", _plain(peers.Shampoo), 0.004, 2.5, "pytorch_optimizer"),
    "psgd": Competitor("PSGD Kron", _plain(peers.psgd), 0.001, 4.0, "heavyball"),
    "kl-shampoo": Competitor("KL-Shampoo", _plain(peers.kl_shampoo), 0.003, 2.5, "heavyball"),
    "kl-soap": Competitor("KL-SOAP", _plain(peers.kl_soap), 0.003, 2.5, "heavyball"),
    "kfac": _family("K-FAC", lngd.KFAC, 2.0),
    "kfac-scheduled": _family("K-FAC, radius by schedule", lngd.KFAC, 2.0, step_size=ScheduledKLClip()),
    "ekfac": _family("EKFAC", lngd.EKFAC, 2.5),
    "tkfac": _family("TKFAC", lngd.TKFAC, 2.0),
    "ngplus": _family("NG+", lngd.NGPlus, 1.8),
    "thor": _family("THOR", lngd.THOR, 2.0),
    "lngd-lr": _family("LNGD-lr", lngd.LNGDLr, 2.0),
    "lngd-sample": _family("LNGD-sample", lngd.LNGDSample, 1.7),
    "lngd": _family("LNGD", lngd.LNGD, 2.0),
    "lngd-spectral": _family("Spectral LNGD", lngd.SpectralLNGD, 1.8),
    "lngd-paper": _family("LNGD, paper's recipe", lngd.LNGD, 2.0, **lngd.PAPER, lr=0.01),
}
OF_BOTH = "-".join(OPTIMIZERS[name].fingerprint for name in ("lngd", "lngd-spectral"))
"""Of a run that does not say which of the two it varies."""


def competitor_of(asked: Mapping[str, Any]) -> Competitor | None:
    """The one that a run names, by its name or its title; None if it names none."""
    said = str(asked.get("optimizer", "")).partition(",")[0]
    return OPTIMIZERS.get(said) or next((row for row in OPTIMIZERS.values() if row.title == said), None)


def fingerprint_of(asked: Mapping[str, Any]) -> str:
    """Of the defaults of the optimizer that a run names."""
    competitor = competitor_of(asked)
    return OF_BOTH if competitor is None else competitor.fingerprint


def is_current(line: Mapping[str, Any]) -> bool:
    """Whether a run was made with the defaults of today."""
    return bool(line.get("defaults") == fingerprint_of(line))


DEFAULT_OPTIMIZERS = "sgd,adamw,muon,lngd,lngd-spectral"  # as the command line writes them
