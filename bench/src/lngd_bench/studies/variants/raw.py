"""Damping of layers that see the data themselves: the table in `docs/methods.md`."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import mean

from torch.optim import Optimizer

from lngd import LNGD, Factors, SpectralLNGD
from lngd_bench.ledger import Line
from lngd_bench.studies.results import markdown
from lngd_bench.studies.variants.changes import Wanted, built, last_epoch
from lngd_bench.tasks import TASKS

STEPS = {"mnist-mlp": 400, "fashion-mlp": 400, "digits-mlp": 200}
METHODS: Mapping[str, tuple[Callable[..., Optimizer], tuple[float, float]]] = {
    "LNGD": (LNGD, (0.125, 0.25)),
    "Spectral LNGD": (SpectralLNGD, (0.01, 0.02)),
}
FACTORS = (1.0, 10.0, 100.0, 1e4)


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    for task, (name, (method, rates)) in product(STEPS, METHODS.items()):
        small = replace(TASKS[task], steps=STEPS[task], epoch_steps=STEPS[task], samples=min(12800, TASKS[task].samples))
        data = small.data(None).first(small.samples)
        for lr, factor, seed in product(rates, FACTORS, given.seeds):
            about = {"task": task, "steps": small.steps, "optimizer": name, "lr": lr, "raw_damping": factor, "seed": seed}
            yield about, partial(last_epoch, small, built(partial(method, factors=Factors(raw_damping=factor))), lr, seed, data)


def table(lines: Sequence[Line]) -> str:
    """The mean accuracy over seeds, in per cent."""
    rows = dict.fromkeys((line["optimizer"], line["task"], line["lr"]) for line in lines)

    def cell(row: tuple[str, str, float], factor: float) -> str:
        own = [line for line in lines if (line["optimizer"], line["task"], line["lr"]) == row and line["raw_damping"] == factor]
        return f"{100 * mean(line['metric'] for line in own):.2f}"

    names = ["optimizer", "task", "lr", *(f"raw_damping {factor:g}" for factor in FACTORS)]
    return markdown(names, [[row[0], row[1], f"{row[2]:g}", *(cell(row, factor) for factor in FACTORS)] for row in rows], words=2)
