"""Bytes that data-parallel training sends at a step, beside the gradients: from shapes, on no device.

    python -m lngd_bench.studies.processes --out results

Prints the table and writes processes.md. That an optimizer's collectives are these, `tests/optimizer/test_processes.py` counts.
"""

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import nn

import lngd
from lngd.optimizer import NaturalGradient
from lngd_bench import archive
from lngd_bench.studies.results import markdown
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.models.resnet import ResNet50

MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-50": ResNet50,
    "GPT-2, 124 M": partial(GPT, 50257, 1024, 768, heads=12, layers=12),
    "GPT, 1.3 B": partial(GPT, 50257, 2048, 2048, heads=16, layers=24),
}
METHODS: Mapping[str, Callable[[nn.Module], NaturalGradient]] = {
    "LNGD": lngd.LNGD,
    "LNGD, factors whole": partial(lngd.LNGD, factors=lngd.Factors(8192)),
    "Spectral LNGD": lngd.SpectralLNGD,
    "K-FAC": lngd.KFAC,
}
NUMBERS, EXACT, FLAGS = 4, 8, 3
"""Numbers of a layer that a measured rate sends, their bytes, and the numbers that come with a layer's statistics."""


def sent(optimizer: NaturalGradient) -> tuple[float, int, float]:
    """Bytes a step: gradients, rates, and statistics over the steps of an interval."""
    report = optimizer.memory_report()
    layers, itemsize = len(report.layers), 4
    statistics = sum(layer.exchanged for layer in report.layers) + layers * FLAGS * itemsize
    rates = NUMBERS * EXACT * layers if optimizer.recipe.step_size.samples != 0 else 0
    return report.parameters, rates, statistics / optimizer.recipe.schedule.curvature_every


def table() -> str:
    """A row for each model and method."""
    rows = []
    for model, build in MODELS.items():
        for method, make in METHODS.items():
            with torch.device("meta"):
                network = build()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gradients, rates, statistics = sent(make(network))
            share = (rates + statistics) / gradients
            cells = (f"{gradients / 1e6:,.0f}", f"{statistics / 1e6:.2f}", f"{rates:,}", f"{100 * share:.2f} %")
            rows.append((model, method, *cells))
    headings = ("", "", "gradients, MB", "statistics over the interval, MB", "rates, bytes", "both over gradients")
    return markdown(headings, rows, words=2)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/processes"), metavar="DIR", help="where processes.md goes")
    given = parser.parse_args(words)
    command = shlex.join(["python", "-m", "lngd_bench.studies.processes", *words])
    said = f"`{command}`, {datetime.now(UTC):%Y-%m-%d}.\n\nBytes a step that a process has reduced, in float32.\n\n{table()}"
    archive.put(given.out / "processes.md", said.encode())
    print(said)


if __name__ == "__main__":
    main(sys.argv[1:])
