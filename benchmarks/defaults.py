"""Measures the lr, damping and interval of LNGD, or of another method of the family, together.

    python benchmarks/defaults.py OUT.jsonl --steps 400 --lr 0.5 1 --damping 0.1 0.3 1
    python benchmarks/defaults.py OUT.jsonl --method KFAC --tasks mnist-cnn --lr 0.1 0.2 --damping 0.03 0.3 --kl-clip 0.001 0.01

Prints and appends one line a run: mean training loss of the last 100 steps and test metric.
The seed is apart from those of the reports.
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import lngd
from lngd.bench import train as runner
from lngd.bench.optimizers import OPTIMIZERS, Competitor
from lngd.bench.tasks import TASKS

SEED = 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["fashion-mlp", "fashion-cnn", "fashion-resnet"], choices=list(TASKS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--method", default="LNGD", choices=[name for name in lngd.__all__ if hasattr(getattr(lngd, name), "block_of")]
    )
    for name, default in (("lr", 0.5), ("damping", 0.3), ("curvature-every", 20), ("kl-clip", 1e-3)):
        parser.add_argument(f"--{name}", nargs="+", type=type(default), default=[default])
    parser.add_argument(
        "--revert", nargs="+", default=[""], metavar="NAME", help="one run each with this option as in lngd.PAPER"
    )
    parser.add_argument("--baseline", help="instead of LNGD, another optimizer; --lr are its rates")
    return parser.parse_args()


def measure(given: argparse.Namespace, task_name: str, lr: float, options: dict[str, Any]) -> dict[str, object]:
    """One run."""
    steps, baseline, method = given.steps, given.baseline, getattr(lngd, given.method)
    task = replace(TASKS[task_name], steps=steps, epoch_steps=100)
    row = Competitor("candidate", lambda model, s: method(model, lr=s.lr, mean_over=s.mean_over, **options), 0.5, 1.0)
    runner.OPTIMIZERS = {"candidate": OPTIMIZERS[baseline] if baseline else row}
    *_, last = runner.train(runner.RunSpec(task, "candidate", lr, SEED), task.data(None))
    about = {
        "task": task_name,
        "steps": steps,
        "optimizer": baseline or given.method.lower(),
        "lr": lr,
        **({} if baseline else options),
    }
    return {**about, "train_loss": last.train_loss, "metric": last.metric, "diverged": last.diverged}


def intervals(method: str, every: int) -> dict[str, int]:
    """EKFAC measures its eigenvalues many times between two refreshes of their basis."""
    if method == "EKFAC":
        return {"curvature_every": max(1, every // 4), "inverse_every": 5 * every}
    return {"curvature_every": every, "inverse_every": every}


def main() -> None:
    """Every combination, as it comes."""
    given = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    grid = itertools.product(given.tasks, given.lr, given.damping, given.curvature_every, given.kl_clip, given.revert)
    for task, lr, damping, every, kl_clip, reverted in grid:
        options = {"damping": damping, "kl_clip": kl_clip, **intervals(given.method, every)}
        if reverted:
            options[reverted] = lngd.PAPER[reverted]
        line = json.dumps(measure(given, task, lr, options))
        print(line, flush=True)
        with given.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
