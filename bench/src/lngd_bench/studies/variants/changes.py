"""Variants of the step, one thing changed at a time, on short runs of the quality tasks: the table in `docs/performance.md`.

The mean over seeds of the final metric at the better of two rates. Seeds are apart from those of the reports. Runs are of an
optimizer that no race knows.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import LNGD, Factors, Schedule, SpectralLNGD
from lngd.curvature import LNGDBlock, LNGDKroneckerBlock, SpectralBlock, SpectralKroneckerBlock
from lngd.linalg import Damping
from lngd_bench.competitors.optimizers import OPTIMIZERS, Competitor, Setting
from lngd_bench.ledger import Line
from lngd_bench.studies.quality.quality import SIZES, scheduled
from lngd_bench.studies.results import MISSING, markdown
from lngd_bench.tasks import TASKS as TABLE
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.task import Task
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import RunSpec, train

NAME = "candidate"
Build = Callable[[nn.Module, Setting], Optimizer]
Wanted = tuple[Line, Callable[[], Epoch]]
"""What identifies a run, as in its record, and how it is made."""
SEEDS = (1000, 1001)
TASKS = {"fashion-cnn": 0.35, "fashion-vit": 0.35}
"""By name, the share of the full schedule."""
ADAM, NEWTON, EQ_12 = (0.02, 0.04), (0.25, 0.5), (0.5, 1.0)
"""Rates for steps of a fixed length, for those that the layer's own curvature measures, and for eq. 12 itself."""
WHOLE = Factors(8192, convolution="full")
BY_EQ_12 = partial(LNGD, step_size="layerwise", adamw_lr_ratio=0.02)


def built(method: Callable[..., Optimizer]) -> Build:
    """One of this library's methods with the runner's rate."""
    return lambda model, setting: method(model, lr=setting.lr, mean_over=setting.mean_over)


def last_epoch(task: Task, build: Build, lr: float, seed: int, data: Data | None = None) -> Epoch:
    """What a run of the optimizer ends with."""
    with patch.dict(OPTIMIZERS, {NAME: Competitor(NAME, build, lr, 1.0)}):
        *_, last = train(RunSpec(task, NAME, lr, seed), task.data(None) if data is None else data)
    return last


class NoPsiDense(SpectralBlock):
    """Ψ = I, of any layer."""

    def inverse_of_psi(self, damping: Damping) -> Tensor:
        return identity(super().inverse_of_psi(damping))


class NoPsiKronecker(SpectralKroneckerBlock):
    """Ψ = I, of a convolution."""

    def inverse_of_psi(self, damping: Damping) -> Tensor:
        return identity(super().inverse_of_psi(damping))


class SpectralWithoutPsi(SpectralLNGD):
    """Whitened by the inputs alone."""

    block, convolution_block = NoPsiDense, NoPsiKronecker


class SpectralByLNGD(SpectralLNGD):
    """Whitened by LNGD's factors, of which Ψ is a diagonal."""

    block, convolution_block = LNGDBlock, LNGDKroneckerBlock


def identity(inverse: Tensor) -> Tensor:
    """In the shape of an inverse factor."""
    return torch.eye(inverse.shape[-1]).to(inverse).expand_as(inverse).contiguous()


VARIANTS: Mapping[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "Spectral LNGD": (SpectralLNGD, ADAM),
    "Ψ = I": (SpectralWithoutPsi, ADAM),
    "LNGD's factors, by layer-wise sampling": (partial(SpectralByLNGD, fisher="layerwise"), ADAM),
    "gradients of labels that are drawn": (partial(SpectralLNGD, fisher="sampled"), ADAM),
    "α_l of eqs. 12–13 for its length": (partial(SpectralLNGD, step_size="layerwise", adamw_lr_ratio=0.02), EQ_12),
    "Adam's length (graft)": (partial(SpectralLNGD, step_size="graft"), ADAM),
    "momentum 0.95": (partial(SpectralLNGD, momentum=0.95), ADAM),
    "momentum not looking ahead": (partial(SpectralLNGD, momentum_on="gradient"), ADAM),
    "damping 0.3": (partial(SpectralLNGD, damping=0.3), ADAM),
    "damping 3": (partial(SpectralLNGD, damping=3.0), ADAM),
    "Φ fresh, not averaged": (partial(SpectralLNGD, decay=0.0), ADAM),
    "factors whole (no blocks, no Kronecker)": (partial(SpectralLNGD, factors=WHOLE), ADAM),
    "curvature from 8 samples": (partial(SpectralLNGD, schedule=Schedule(samples=8)), ADAM),
    "no warm-up": (partial(SpectralLNGD, warmup=0), ADAM),
    "warm-up of 30 steps": (partial(SpectralLNGD, warmup=30), ADAM),
    "LNGD": (LNGD, NEWTON),
    "LNGD, α_l of eqs. 12–13": (BY_EQ_12, EQ_12),
    "LNGD, Adam's length (graft)": (partial(LNGD, step_size="graft", adamw_lr_ratio=0.5), ADAM),
    "LNGD, factors whole": (partial(LNGD, factors=WHOLE), NEWTON),
    "LNGD, warm-up of 30 steps": (partial(LNGD, warmup=30), NEWTON),
}


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    """Every variant at its rates; `steps` instead of the share of the full schedule."""
    for name in given.tasks:
        full = SIZES[name].full()
        assert full.steps
        task = scheduled(full, given.steps / full.steps if given.steps else TASKS[name])
        for variant, (build, rates) in VARIANTS.items():
            for lr, seed in product(rates, given.seeds):
                about = {"task": name, "steps": task.steps, "variant": variant, "lr": lr, "seed": seed}
                yield about, partial(last_epoch, task, built(build), lr, seed)


def wanted_of_layers(given: argparse.Namespace) -> Iterator[Wanted]:
    """LNGD with and without curvature for embeddings, in turn within a seed: `docs/layers.md`."""
    for name in given.tasks:
        task = replace(TABLE[name], steps=given.steps, epoch_steps=100)
        data, embeddings = task.data(None), any(isinstance(module, nn.Embedding) for module in task.model().modules())
        for seed, variant in product(given.seeds, ("default", "embeddings") if embeddings else ("default",)):
            about = {"task": name, "steps": given.steps, "seed": seed, "lr": NEWTON[0], "curvature on": variant}
            build = built(LNGD) if variant == "default" else with_embeddings
            yield about, partial(last_epoch, task, build, NEWTON[0], seed, data)


def with_embeddings(model: nn.Module, setting: Setting) -> Optimizer:
    """A group that asks for curvature where the library would not give it."""
    asked = [p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()]
    known = {id(p) for p in asked}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in known]}]
    return LNGD(model, [*groups, {"params": asked, "curvature": True}], lr=setting.lr, mean_over=setting.mean_over)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A row for each variant: the final metric at its best rate, and that rate."""
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line["variant"], line["task"]][line["lr"]].append(line["metric"])
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    return markdown(["", *tasks], [[variant, *(_cell(found[variant, task], task) for task in tasks)] for variant in VARIANTS])


def _cell(by_rate: Mapping[float, Sequence[float | None]], task: str) -> str:
    """A rate at which a seed diverged doesn't count."""
    means = {lr: mean(value for value in values if value is not None) for lr, values in by_rate.items() if None not in values}
    if not means:
        return MISSING
    lower = SIZES[task].full().metric == "loss"
    lr = (min if lower else max)(means, key=lambda rate: means[rate])
    return f"{means[lr]:.3f} at {lr:g}" if lower else f"{100 * means[lr]:.2f} at {lr:g}"
