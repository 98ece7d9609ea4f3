"""The figures of Theorem 1 (quadratic models and a real run) and of Theorems 2–3 (the two-layer net)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench.studies.theory.proof import bound, limits, printed_c
from lngd_bench.studies.theory.quadratic import Quadratics, gain, violation
from lngd_bench.studies.theory.sweep import ALPHAS, Run, problem
from lngd_bench.studies.theory.two_layer import wide_kernel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")  # Okabe and Ito's
DOTS_PER_INCH = 120
LOWEST = 1e-16
"""Where the axis of squared errors ends."""
HIGHEST = 1e4
COUPLINGS = np.linspace(0, 1, 11)
TITLES = {"none": "proof's update", "eq. 12": "with eq. 12"}
DRAWN_ALPHA = 0.1
"""The α at which widths are compared."""

Family = Mapping[int, Quadratics]


def draw_theorem_1(families: Mapping[str, Family], run: Sequence[float], path: Path) -> Path:
    """Writes the PNG: gains of block-diagonal models, the gain over a run, and what a full H does to both."""
    figure = Figure(figsize=(12.0, 4.3), layout="constrained")
    distribution, along, outside = figure.subplots(1, 3)
    for style, (name, family) in zip(("-", "--"), families.items(), strict=True):
        _families(distribution, outside, family, (name, style))
    along.plot(range(1, len(run) + 1), run, color=COLOURS[1], linewidth=1.2)
    along.axhline(1, color="0.35", linewidth=1, linestyle=":")
    _scales(distribution, along)
    _label(distribution, "block-diagonal H: the gain is never below 1", "decrease per layer / single", "share of models below")
    _label(along, "mnist-mlp with LNGD, 3 layers", "step", "decrease per layer / single")
    _label(outside, "full H: no guarantee", "coupling of layers, 0 = block-diagonal", "share where per layer is worse")
    handles, labels = distribution.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return _save(figure, path)


def draw_theorem_2(runs: Sequence[Run], path: Path) -> Path:
    """Writes the PNG: errors against the bound by α and by width, where it holds, and why."""
    figure = Figure(figsize=(13.5, 8.0), layout="constrained")
    curves, verdicts = figure.subplots(2, 3)
    for column, (rate, title) in enumerate(TITLES.items()):
        chosen = [run for run in runs if run.rate == rate]
        _by_alpha(curves[column], chosen, title)
        _heat(verdicts[column], chosen, f"{title}: seeds that keep the bound")
    _by_width(curves[2], [run for run in runs if run.rate == "none"])
    _worst_factor(verdicts[2])
    return _save(figure, path)


def _families(distribution: Axes, outside: Axes, family: Family, look: tuple[str, str]) -> None:
    name, style = look
    for colour, (layers, models) in zip(COLOURS, family.items(), strict=False):
        gains = np.sort(gain(models.coupled(0)).numpy())
        share = np.arange(1, len(gains) + 1) / len(gains)
        distribution.plot(gains, share, style, color=colour, label=f"{name}, {layers} layers")
        worse = [(violation(models.coupled(float(t))) > 0).double().mean().item() for t in COUPLINGS]
        outside.plot(COUPLINGS, worse, style, color=colour)


def _by_alpha(axes: Axes, runs: Sequence[Run], title: str) -> None:
    widest = max(run.width for run in runs if math.isfinite(run.width))
    for colour, alpha in zip(COLOURS, ALPHAS, strict=False):
        _median(axes, [run for run in runs if (run.width, run.alpha) == (widest, alpha)], f"α = {alpha:g}", colour)
        _dashed_bound(axes, alpha, len(runs[0].shares) - 1, colour)
    _errors(axes, f"{title}, m = {widest:g}")


def _by_width(axes: Axes, runs: Sequence[Run]) -> None:
    for index, width in enumerate(sorted({run.width for run in runs})):
        chosen = [run for run in runs if (run.width, run.alpha) == (width, DRAWN_ALPHA)]
        _median(axes, chosen, f"m = {_name(width)}", COLOURS[index % len(COLOURS)])
    _dashed_bound(axes, DRAWN_ALPHA, len(runs[0].shares) - 1, "0.2")
    _errors(axes, f"{TITLES['none']}, α = {DRAWN_ALPHA:g}")


def _scales(distribution: Axes, along: Axes) -> None:
    distribution.set_xscale("log")
    distribution.set_xlim(0.7, 1e5)
    distribution.axvline(1, color="0.35", linewidth=1, linestyle=":")
    along.set_yscale("log")


def _median(axes: Axes, runs: Sequence[Run], label: str, colour: str) -> None:
    """Median over seeds, with the range of all seeds; infinite values leave the axes at the top."""
    shares = np.stack([run.shares.numpy() for run in runs]).clip(LOWEST / 10, HIGHEST * 10)
    steps = np.arange(shares.shape[1])
    axes.plot(steps, np.median(shares, axis=0), color=colour, label=label, linewidth=1.8)
    axes.fill_between(steps, shares.min(0), shares.max(0), color=colour, alpha=0.15, linewidth=0)


def _dashed_bound(axes: Axes, alpha: float, steps: int, colour: str) -> None:
    axes.plot(range(steps + 1), bound(alpha, steps), "--", color=colour, linewidth=1.2)


def _errors(axes: Axes, title: str) -> None:
    axes.set_yscale("log")
    axes.set_ylim(LOWEST, HIGHEST)
    axes.legend(ncols=2, fontsize=9, loc="lower left", framealpha=0.9, edgecolor="none")
    _label(axes, title, "step k; dashed: (1−α)ᵏ", "‖y − v‖² / ‖y − v₀‖²")


def _heat(axes: Axes, runs: Sequence[Run], title: str) -> None:
    """The share of seeds for which the bound holds, by width and α."""
    widths = sorted({run.width for run in runs})
    shares = np.array([[_holding(runs, width, alpha) for alpha in ALPHAS] for width in widths])
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", color="black" if share > 0.5 else "white")
    axes.set_xticks(range(len(ALPHAS)), [f"{alpha:g}\nc ≤ {printed_c(alpha):.2f}" for alpha in ALPHAS])
    axes.set_yticks(range(len(widths)), [_name(width) for width in widths])
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("α, and the c up to which it is allowed")
    axes.set_ylabel("width m")


def _holding(runs: Sequence[Run], width: float, alpha: float) -> float:
    chosen = [run for run in runs if (run.width, run.alpha) == (width, alpha)]
    return sum(run.verdict.first is None for run in chosen) / len(chosen)


def _worst_factor(axes: Axes) -> None:
    """The worst factor on a squared residual per step for m → ∞, against 1 − α, for the data of seed 0."""
    X = problem(0).X
    K = wide_kernel(X)
    alphas = np.linspace(0, 1, 401)
    values = K.diagonal().numpy()
    spread = values.max() / values.min()
    cosine = 4 * spread / (1 + spread) ** 2
    exact = limits(X.T @ X / 2, torch.tensor(len(X) / 2), K).exact
    axes.plot(alphas, np.square(1 - alphas[:, None] * values).max(1), color=COLOURS[0], label="update of the proof")
    axes.plot(alphas, 1 - (2 * alphas - alphas**2) * cosine, color=COLOURS[2], label="with the rate of eq. 12")
    axes.plot(alphas, 1 - alphas, "--", color="0.2", label="1 − α, what the theorem needs")
    axes.axvline(exact, color="0.35", linewidth=1, linestyle=":")
    axes.annotate(f" α = {exact:.3f}", (exact, 0.03), color="0.2", fontsize=9)
    axes.set_ylim(0, 1.5)
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    _label(axes, "m → ∞, seed 0: worst factor of a step", "α", "‖y − v‖² after / before")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name(width: float) -> str:
    return f"{width:g}" if math.isfinite(width) else "∞"


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return path
