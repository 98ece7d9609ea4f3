"""SpectralLNGD with one thing changed, at its tuned rates."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import SpectralLNGD
from lngd.curvature import LNGDBlock
from lngd.linalg import Damping
from lngd.step_size import Directions, FixedRMS
from lngd.types import Vector
from lngd_bench.competitors.normuon import CAUTIOUS_DECAY, rows_alike
from lngd_bench.competitors.optimizers import Setting, default_of
from lngd_bench.studies.language.runs import Runs, Wanted
from lngd_bench.studies.variants.changes import Build, NoPsiDense, SpectralWithoutPsi
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task
from lngd_bench.training.tune import rounded

METHOD = "lngd-spectral"
UNCHANGED = "unchanged"
FACTORS = (0.5**0.5, 1.0, 2**0.5)
"""Of the tuned lr; the best of the three on the first seed counts, for the unchanged one too."""
OWN_DAMPING = default_of(SpectralLNGD, "damping")
Given = Mapping[str, Any]


class NoPhiDense(LNGDBlock):
    """Φ = I."""

    def refresh(self, damping: Damping) -> None:
        super().refresh(damping)
        self.phi_inverse = _identity(self.phi_inverse)


class NeitherDense(NoPsiDense):
    """Φ = I and Ψ = I."""

    def refresh(self, damping: Damping) -> None:
        super().refresh(damping)
        self.phi_inverse = _identity(self.phi_inverse)


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


def _identity(inverse: Tensor) -> Tensor:
    return torch.eye(inverse.shape[-1]).to(inverse).expand_as(inverse).contiguous()


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
    "head by AdamW": grouped(lambda model: [model.head], curvature=False),
    "embeddings with curvature": grouped(lambda model: [model.token, model.position], curvature=True),
    "momentum not looking ahead": partial(SpectralLNGD, momentum_on="gradient"),
    "damping × 0.1": partial(SpectralLNGD, damping=0.1 * OWN_DAMPING),
    "damping × 10": partial(SpectralLNGD, damping=10 * OWN_DAMPING),
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
    """Every change at every rate with the first seed, and with the others at the rate that was best there."""
    best: dict[str, float] = {}
    for seed in seeds:
        for change, method in CHANGES.items():
            losses: dict[float, float] = {}
            for factor in FACTORS if change not in best else (best[change],):
                wanted = Wanted(
                    task=task,
                    optimizer=METHOD,
                    lr=rounded(factor * lr),
                    rest=rest,
                    seed=seed,
                    change=change,
                    build=with_rates(method),
                )
                loss = runs.of(wanted)["loss"]
                losses[factor] = math.inf if loss is None else loss
            best.setdefault(change, min(losses, key=lambda factor: losses[factor]))
