"""Measures the lr, damping and interval of LNGD, or of another method of the family, together.

    python benchmarks/defaults.py OUT.jsonl --steps 400 --lr 0.5 1 --damping 0.1 0.3 1
    python benchmarks/defaults.py OUT.jsonl --method KFAC --tasks mnist-cnn --lr 0.1 0.2 --damping 0.03 0.3 --kl-clip 0.001 0.01

Prints and appends one line a run: mean training loss of the last 100 steps and test metric.
The seed is apart from those of the reports.
"""

import argparse
import inspect
import itertools
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import lngd
from lngd.methods import Method
from lngd_bench.competitors.optimizers import OPTIMIZERS, Competitor
from lngd_bench.tasks import TASKS
from lngd_bench.training import train as runner

SEED = 1000
METHODS: Mapping[str, type[Method]] = {method.__name__: method for method in Method.__subclasses__()}
OBJECTS: Mapping[str, Any] = {
    "step_size": lngd.LayerwiseRate(),
    "fisher": lngd.Layerwise(),
    "schedule": lngd.Schedule(),
    "factors": lngd.Factors(),
}
"""LNGD's defaults for arguments that are made of several things."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["fashion-mlp", "fashion-cnn", "fashion-resnet"], choices=list(TASKS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--method", default="LNGD", choices=list(METHODS))
    for name, default in (("lr", 0.5), ("damping", 0.3), ("curvature-every", 20)):
        parser.add_argument(f"--{name}", nargs="+", type=type(default), default=[default])
    parser.add_argument("--kl-clip", nargs="+", type=float, default=[None], metavar="κ", help="step_size=KLClip(κ)")
    parser.add_argument(
        "--revert",
        nargs="+",
        default=[None],
        choices=[*lngd.PAPER, *(f"{name}.{field.name}" for name, given in OBJECTS.items() for field in fields(given))],
        metavar="NAME",
        help="one run of LNGD each with this as in lngd.PAPER: an argument, or what belongs to one, such as schedule.ramp",
    )
    parser.add_argument("--baseline", help="instead of LNGD, another optimizer; --lr are its rates")
    return parser.parse_args()


def measure(given: argparse.Namespace, task_name: str, lr: float, options: dict[str, Any]) -> dict[str, object]:
    """One run."""
    steps, baseline, method = given.steps, given.baseline, METHODS[given.method]
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


def schedule(method: str, every: int) -> lngd.Schedule:
    """The method's own at another interval. EKFAC measures its eigenvalues many times between two refreshes of their basis."""
    own: lngd.Schedule = inspect.signature(METHODS[method]).parameters["schedule"].default
    measured, refreshed = (max(1, every // 4), 5 * every) if method == "EKFAC" else (every, every)
    return replace(own, curvature_every=measured, inverse_every=refreshed)


def as_in_the_paper(options: Mapping[str, Any], name: str) -> Any:
    """An argument as `lngd.PAPER` has it, or with only one thing that belongs to it so."""
    argument, _, field = name.partition(".")
    paper = lngd.PAPER[argument]
    return replace(options.get(argument, OBJECTS[argument]), **{field: getattr(paper, field)}) if field else paper


def main() -> None:
    """Every combination, as it comes."""
    given = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    grid = itertools.product(given.tasks, given.lr, given.damping, given.curvature_every, given.kl_clip, given.revert)
    for task, lr, damping, every, kl_clip, reverted in grid:
        options: dict[str, Any] = {"damping": damping, "schedule": schedule(given.method, every)}
        if kl_clip is not None:
            options["step_size"] = lngd.KLClip(kl_clip)
        if reverted:
            options[reverted.partition(".")[0]] = as_in_the_paper(options, reverted)
        line = json.dumps(measure(given, task, lr, options), default=repr)
        print(line, flush=True)
        with given.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
