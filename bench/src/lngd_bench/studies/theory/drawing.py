"""The picture of the theorems: quadratic models and a real run for Theorem 1, the two-layer net for Theorems 2–3."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench.report.style import label
from lngd_bench.studies.theory.proof import ALPHAS, bound, limits, problem
from lngd_bench.studies.theory.quadratic import Quadratics, gain, violation
from lngd_bench.studies.theory.two_layer import wide_kernel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito's
LOWEST, HIGHEST = 1e-16, 1e4
"""Where the axis of squared errors ends."""
COUPLINGS = np.linspace(0, 1, 11)

Family = Mapping[int, Quadratics]


def draw(families: Mapping[str, Family], gains: Sequence[float], runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Above: gains of block-diagonal models, what a full H does to them, the gain over a run. Below: errors against the bound."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    (distribution, outside, along), (proof, rated, factor) = figure.subplots(2, 3)
    for style, (name, family) in zip(("-", "--"), families.items(), strict=True):
        for colour, (layers, models) in zip(COLOURS, family.items(), strict=False):
            gained = np.sort(gain(models.coupled(0)).numpy())
            shares = np.arange(1, len(gained) + 1) / len(gained)
            distribution.plot(gained, shares, style, color=colour, label=f"{name}, {layers} layers")
            worse = [(violation(models.coupled(float(t))) > 0).double().mean().item() for t in COUPLINGS]
            outside.plot(COUPLINGS, worse, style, color=colour)
    distribution.set(xscale="log", xlim=(0.7, 1e5))
    distribution.axvline(1, color="0.35", linewidth=1, linestyle=":")
    distribution.legend(fontsize=7, loc="lower right", frameon=False)
    label(distribution, "Theorem 1, block-diagonal H: gain ≥ 1", "decrease per layer / single", "share of models below")
    label(outside, "full H: no guarantee", "coupling of layers, 0 = block-diagonal", "share where per layer is worse")
    along.plot(range(1, len(gains) + 1), gains, color=COLOURS[1], linewidth=1.2)
    along.axhline(1, color="0.35", linewidth=1, linestyle=":")
    along.set_yscale("log")
    label(along, "mnist-mlp with LNGD, 3 layers", "step", "decrease per layer / single")
    _errors(proof, [run for run in runs if run["rate"] == "none"], "Theorem 2, the proof's update")
    _errors(rated, [run for run in runs if run["rate"] == "eq. 12"], "with the rate of eq. 12")
    _worst_factor(factor)
    return figure


def _errors(axes: Axes, runs: Sequence[Mapping[str, Any]], title: str) -> None:
    """Of the widest net: the median over seeds with the range of all; infinite values leave the axes at the top."""
    widest = max(run["width"] for run in runs if math.isfinite(run["width"]))
    steps = np.arange(len(runs[0]["shares"]))
    for colour, alpha in zip(COLOURS, ALPHAS, strict=True):
        shares = np.array([run["shares"] for run in runs if (run["width"], run["alpha"]) == (widest, alpha)])
        shares = shares.clip(LOWEST / 10, HIGHEST * 10)
        axes.plot(steps, np.median(shares, axis=0), color=colour, label=f"α = {alpha:g}", linewidth=1.8)
        axes.fill_between(steps, shares.min(0), shares.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, bound(alpha, len(steps) - 1), "--", color=colour, linewidth=1.2)
    axes.set(yscale="log", ylim=(LOWEST, HIGHEST))
    axes.legend(ncols=2, fontsize=7, loc="lower left", framealpha=0.9, edgecolor="none")
    label(axes, f"{title}, m = {widest:g}", "step k; dashed: (1−α)ᵏ", "‖y − v‖² / ‖y − v₀‖²")


def _worst_factor(axes: Axes) -> None:
    """The worst factor on a squared residual per step for m → ∞, against 1 − α, for the data of seed 0."""
    X = problem(0).X
    K = wide_kernel(X)
    alphas = np.linspace(0, 1, 401)
    values = K.diagonal().numpy()
    spread = values.max() / values.min()
    cosine = 4 * spread / (1 + spread) ** 2
    exact = limits(X.T @ X / 2, torch.tensor(len(X) / 2), K)["exact"]
    axes.plot(alphas, np.square(1 - alphas[:, None] * values).max(1), color=COLOURS[0], label="proof's update")
    axes.plot(alphas, 1 - (2 * alphas - alphas**2) * cosine, color=COLOURS[2], label="with eq. 12")
    axes.plot(alphas, 1 - alphas, "--", color="0.2", label="1 − α, needed")
    axes.axvline(exact, color="0.35", linewidth=1, linestyle=":")
    axes.annotate(f" α = {exact:.3f}", (exact, 0.03), color="0.2", fontsize=9)
    axes.set(ylim=(0, 1.5), xlim=(0, 1))
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    label(axes, "m → ∞: worst factor of a step", "α", "‖y − v‖² after / before")
