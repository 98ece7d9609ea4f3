"""SpectralLNGD with one thing changed, at its tuned rates."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lngd import SpectralLNGD
from lngd.curvature import SpectralBlock
from lngd.linalg import Damping
from lngd.step_size import Directions, FixedRMS
from lngd.types import Vector
from lngd_bench.competitors.normuon import CAUTIOUS_DECAY, rows_alike
from lngd_bench.competitors.optimizers import Setting, default_of
from lngd_bench.studies.language.runs import Runs, Wanted
from lngd_bench.studies.variants.changes import Build, NoPsiDense, SpectralByLNGD, SpectralWithoutPsi, identity
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task

METHOD = "lngd-spectral"
UNCHANGED = "unchanged"
OWN_DAMPING = default_of(SpectralLNGD, "damping")
Given = Mapping[str, Any]


class NoPhiDense(SpectralBlock):
    """Φ = I."""

    def refresh(self, damping: Damping) -> None:
        super().refresh(damping)
        self.phi_inverse = identity(self.phi_inverse)


class NeitherDense(NoPsiDense):
    """Φ = I and Ψ = I."""

    def refresh(self, damping: Damping) -> None:
        super().refresh(damping)
        self.phi_inverse = identity(self.phi_inverse)


class SpectralWithoutPhi(SpectralLNGD):
    """Whitened by the outputs alone."""

    block = NoPhiDense


class SpectralWithoutEither(SpectralLNGD):
    """Muon's step on SpectralLNGD's layers."""

    block = NeitherDense


class RowsAlike(FixedRMS):
    """NorMuon's rows (`competitors.normuon`) between the polar factor and its length."""

    tensors = ("rows",)

    def alpha(self, step: Directions) -> Vector:
        """The moments are the first column of a tensor that is kept for each weight."""
        for direction, kept in zip(step.directions, step.tensors["rows"][0], strict=True):
            direction.copy_(rows_alike(direction, kept[:, :1]))
        return super().alpha(step)


class OnSpheres(SpectralLNGD):
    """Every layer's weight keeps the norm that it began with (Hyperball's projection)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        weights = [each.layer.weight for each in self._layers.values()]
        self._radii = getattr(self, "_radii", [weight.norm() for weight in weights])
        loss = super().step(closure)
        for weight, radius in zip(weights, self._radii, strict=True):
            weight.mul_(radius / weight.norm())
        return loss


class CautiousDecay(SpectralLNGD):
    """Weight decay for the entries that the step makes smaller anyway, as `competitors.normuon.CautiousMuon` has it."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        weights = [each.layer.weight for each in self._layers.values()]
        before = [weight.clone() for weight in weights]
        loss = super().step(closure)
        for weight, old in zip(weights, before, strict=True):
            weight.sub_(old * ((old - weight) * old >= 0), alpha=self.param_groups[0]["lr"] * CAUTIOUS_DECAY)
        return loss


def grouped(parts: Callable[[GPT], Sequence[nn.Module]], *, curvature: bool) -> Callable[..., Optimizer]:
    """With or without curvature for some modules of the network."""

    def build(model: GPT, **options: Any) -> Optimizer:
        chosen = [p for part in parts(model) for p in part.parameters()]
        known = {id(p) for p in chosen}
        rest = [p for p in model.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": chosen, "curvature": curvature}]
        return SpectralLNGD(model, groups, **options)

    return build


CHANGES: Mapping[str, Callable[..., Optimizer]] = {
    UNCHANGED: SpectralLNGD,
    "Φ = I": SpectralWithoutPhi,
    "Ψ = I": SpectralWithoutPsi,
    "Φ = I and Ψ = I (Muon's step)": SpectralWithoutEither,
    "LNGD's factors, by layer-wise sampling": partial(SpectralByLNGD, fisher="layerwise"),
    "gradients of labels that are drawn": partial(SpectralLNGD, fisher="sampled"),
    "head by AdamW": grouped(lambda model: [model.head], curvature=False),
    "embeddings with curvature": grouped(lambda model: [model.token, model.position], curvature=True),
    "momentum not looking ahead": partial(SpectralLNGD, momentum_on="gradient"),
    "damping × 0.1": partial(SpectralLNGD, damping=0.1 * OWN_DAMPING),
    "damping × 10": partial(SpectralLNGD, damping=10 * OWN_DAMPING),
    "momentum 0.95": partial(SpectralLNGD, momentum=0.95),
    "no warm-up": partial(SpectralLNGD, warmup=0),
    "norms not kept": partial(SpectralLNGD, keep_norms=False),
    "factors whole": partial(SpectralLNGD, factors=8192),
    "rows alike (NorMuon)": partial(SpectralLNGD, step_size=RowsAlike()),
    "norms of all layers kept (Hyperball)": OnSpheres,
    "cautious weight decay": CautiousDecay,
}


def with_rates(method: Callable[..., Optimizer]) -> Build:
    """A change as the runner builds it."""

    def build(model: nn.Module, setting: Setting) -> Optimizer:
        ratio = default_of(SpectralLNGD, "adamw_lr_ratio") * (1.0 if setting.rest is None else setting.rest)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lr=")  # a search tries rates of every size
            return method(model, lr=setting.lr, adamw_lr_ratio=ratio, mean_over=setting.mean_over)

    return build


def ablated(runs: Runs, task: Task, lr: float, rest: float | None, seeds: Sequence[int]) -> None:
    """Every change at the same rates, in turn within a seed."""
    for seed in seeds:
        for change, method in CHANGES.items():
            build = with_rates(method)
            runs.of(Wanted(task=task, optimizer=METHOD, lr=lr, rest=rest, seed=seed, change=change, build=build))
