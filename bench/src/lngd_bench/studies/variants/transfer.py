"""One rate for every width and depth: how far the best rate moves when a perceptron grows, `results/transfer.md`.

Rates are in units of the optimizer's own: its default, or what is customary.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import mean

from matplotlib.figure import Figure

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.ledger import Line
from lngd_bench.report.style import label, png
from lngd_bench.studies.results import markdown
from lngd_bench.studies.variants.changes import Wanted, last_epoch
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.models.plain import mlp

STEPS, SAMPLES = 200, 12800
WIDTHS, DEPTHS = (64, 128, 256, 512), (2, 4, 8, 16)
"""Of the hidden layers: their width where there are three, their number where they are 64 wide."""
METHODS = ("adamw", "muon-fp32", "lngd", "lngd-spectral")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SHADES = ("#B3CDE3", "#8C96C6", "#8856A7", "#4D004B")
"""From the smallest network to the largest."""


def networks() -> Mapping[str, Mapping[int, tuple[int, ...]]]:
    """Layer sizes by what changes and how much there is of it."""
    wide = {width: (784, width, width, width, 10) for width in WIDTHS}
    deep = {depth: (784, *[64] * depth, 10) for depth in DEPTHS}
    return {"width": wide, "depth": deep}


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    task = replace(TASKS["fashion-mlp"], steps=STEPS, epoch_steps=STEPS, samples=SAMPLES)
    data = task.data(None).first(SAMPLES)
    for what, sizes in networks().items():
        for (size, layers), name, factor, seed in product(sizes.items(), METHODS, FACTORS, given.seeds):
            competitor = OPTIMIZERS[name]
            about = {"changed": what, "size": size, "optimizer": name, "lr": factor * competitor.customary, "seed": seed}
            own = replace(task, model=partial(mlp, *layers))
            yield about, partial(last_epoch, own, competitor.build, about["lr"], seed, data)


def ends(lines: Sequence[Line], what: str, name: str) -> dict[int, dict[float, float]]:
    """The mean training loss of the epoch over seeds, by size and rate over the optimizer's own; without what diverges."""
    found: dict[tuple[int, float], list[float | None]] = {}
    for line in lines:
        if (line["changed"], line["optimizer"]) == (what, name):
            found.setdefault((line["size"], line["lr"] / OPTIMIZERS[name].customary), []).append(line["train_loss"])
    means = {key: mean(value for value in values if value is not None) for key, values in found.items() if None not in values}
    sizes = sorted({size for size, _ in means})
    return {size: {factor: loss for (own, factor), loss in means.items() if own == size} for size in sizes}


def table(lines: Sequence[Line]) -> str:
    """For each size the best rate, over the optimizer's own, and what the own rate loses against it."""
    rows = []
    for what, sizes in networks().items():
        for name in METHODS:
            by_size = ends(lines, what, name)
            rows.append([what, OPTIMIZERS[name].title, *(_cell(by_size.get(size, {})) for size in sizes)])
    sides = [f"{width} wide or {depth} deep" for width, depth in zip(WIDTHS, DEPTHS, strict=True)]
    return markdown(["changed", "optimizer", *sides], rows, words=2)


def _cell(losses: Mapping[float, float]) -> str:
    if not losses:
        return "diverges"
    best = min(losses, key=lambda factor: losses[factor])
    own = f"{losses[1.0] / losses[best] - 1:.0%}" if 1.0 in losses else "diverges"
    return f"× {best:g}, {own}"


def draw(lines: Sequence[Line]) -> bytes:
    """A PNG: loss against rate, a curve for each size."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    grid = figure.subplots(2, len(METHODS), sharex=True, sharey="row")
    for row, (what, sizes) in zip(grid, networks().items(), strict=True):
        for axes, name in zip(row, METHODS, strict=True):
            by_size = ends(lines, what, name)
            for size, colour in zip(sizes, SHADES, strict=False):
                curve = sorted(by_size.get(size, {}).items())
                axes.plot(
                    *zip(*curve, strict=True) if curve else ([], []), "o-", color=colour, label=f"{what} {size}", markersize=3
                )
            axes.axvline(1.0, color="0.7", linewidth=0.8, zorder=0)
            axes.set_xscale("log", base=2)
            label(axes, OPTIMIZERS[name].title, "rate over its own", "training loss" if name == METHODS[0] else "")
            axes.set_ylim(*_limits(lines, what))
        row[-1].legend(frameon=False, fontsize=7)
    return png(figure)


def _limits(lines: Sequence[Line], what: str) -> tuple[float, float]:
    """From the best of all to twice the worst of the best: what diverges is above."""
    bests = [min(losses.values()) for name in METHODS for losses in ends(lines, what, name).values()]
    return 0.9 * min(bests), 2.0 * max(bests)
