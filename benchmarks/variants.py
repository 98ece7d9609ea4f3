"""Variants of the step, one thing changed at a time, on short runs of the quality tasks: the table in `docs/performance.md`.

    python benchmarks/variants.py docs/results/variants/variants.jsonl

Appends one line a run and prints a table from the file: the mean over seeds of the final metric at the better of two rates.
Seeds are apart from those of the reports.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from lngd import LNGD, Factors, Schedule, SpectralLNGD
from lngd.curvature import LNGDBlock, LNGDKroneckerBlock
from lngd.linalg import Damping
from lngd_bench.competitors.optimizers import Competitor
from lngd_bench.studies.quality.quality import SIZES, scheduled
from lngd_bench.training import train as runner

SEEDS = (1000, 1001)
TASKS = {"fashion-cnn": 0.35, "fashion-vit": 0.35}
"""By name, the share of the full schedule."""
ADAM, NEWTON = (0.02, 0.04), (0.5, 1.0)
"""Rates for steps of a fixed length, and for those that the layer's own curvature measures."""
WHOLE = Factors(8192, convolution="full")


class NoPsi:
    """Ψ = I, in front of a block."""

    def refresh(self, damping: Damping) -> None:
        super().refresh(damping)
        self.psi_inverse = torch.ones_like(self.psi_inverse)


class NoPsiDense(NoPsi, LNGDBlock):
    """Of any layer."""


class NoPsiKronecker(NoPsi, LNGDKroneckerBlock):
    """Of a convolution."""


class SpectralWithoutPsi(SpectralLNGD):
    """Whitened by the inputs alone."""

    block, convolution_block = NoPsiDense, NoPsiKronecker


VARIANTS: Mapping[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "Spectral LNGD": (SpectralLNGD, ADAM),
    "without Ψ": (SpectralWithoutPsi, ADAM),
    "α_l of eqs. 12–13 for its length": (partial(SpectralLNGD, step_size="layerwise", adamw_lr_ratio=0.02), NEWTON),
    "Adam's length (graft)": (partial(SpectralLNGD, step_size="graft"), ADAM),
    "momentum 0.95": (partial(SpectralLNGD, momentum=0.95), ADAM),
    "momentum not looking ahead": (partial(SpectralLNGD, momentum_on="gradient"), ADAM),
    "damping 0.3": (partial(SpectralLNGD, damping=0.3), ADAM),
    "damping 3": (partial(SpectralLNGD, damping=3.0), ADAM),
    "Φ fresh, not averaged": (partial(SpectralLNGD, decay=0.0), ADAM),
    "factors whole (no blocks, no Kronecker)": (partial(SpectralLNGD, factors=WHOLE), ADAM),
    "curvature from 32 samples": (partial(SpectralLNGD, schedule=Schedule(samples=32)), ADAM),
    "warm-up of 30 steps": (partial(SpectralLNGD, warmup=30), ADAM),
    "LNGD": (LNGD, NEWTON),
    "LNGD, Adam's length (graft)": (partial(LNGD, step_size="graft", adamw_lr_ratio=0.5), ADAM),
    "LNGD, factors whole": (partial(LNGD, factors=WHOLE), NEWTON),
    "LNGD, warm-up of 30 steps": (partial(LNGD, warmup=30), NEWTON),
}


def measure(task_name: str, variant: str, lr: float, seed: int) -> dict[str, object]:
    """One run."""
    build, _ = VARIANTS[variant]
    task = scheduled(SIZES[task_name].full(), TASKS[task_name])
    row = Competitor("candidate", lambda model, s: build(model, lr=s.lr, mean_over=s.mean_over), 0.5, 1.0)
    runner.OPTIMIZERS = {"candidate": row}
    *_, last = runner.train(runner.RunSpec(task, "candidate", lr, seed), task.data(None))
    about = {"task": task_name, "steps": task.steps, "variant": variant, "lr": lr, "seed": seed}
    return {**about, "metric": last.metric, "train_loss": last.train_loss}


def table(path: Path) -> str:
    """A row a variant: the final metric at its best rate."""
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text().splitlines():
        run = json.loads(line)
        found[run["variant"], run["task"]][run["lr"]].append(run["metric"])
    lines = ["| | " + " | ".join(TASKS) + " |", "|---" * (1 + len(TASKS)) + "|"]
    lines += [f"| {variant} | " + " | ".join(cell(found[variant, task], task) for task in TASKS) + " |" for variant in VARIANTS]
    return "\n".join(lines)


def cell(by_rate: Mapping[float, list[float]], task: str) -> str:
    """The better of the rates, and that rate."""
    means = {lr: mean(values) for lr, values in by_rate.items() if None not in values}
    if not means:
        return "–"
    lower = SIZES[task].full().metric == "loss"
    lr = (min if lower else max)(means, key=lambda rate: means[rate])
    return f"{means[lr]:.3f} at {lr:g}" if lower else f"{100 * means[lr]:.2f} at {lr:g}"


def main() -> None:
    """Every run that the file lacks, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.touch()
    done = {
        tuple(json.loads(line)[key] for key in ("task", "variant", "lr", "seed")) for line in given.out.read_text().splitlines()
    }
    wanted = ((t, v, lr, seed) for t in given.tasks for v, (_, rates) in VARIANTS.items() for lr in rates for seed in SEEDS)
    for key in wanted:
        if key not in done:
            with given.out.open("a") as file:
                file.write(json.dumps(measure(*key)) + "\n")
    print(table(given.out))


if __name__ == "__main__":
    main()
