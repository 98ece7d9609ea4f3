"""A language model with the strongest optimizers there are, all rates tuned alike, and what makes SpectralLNGD what it is there.

    python -m lngd_bench.studies.language --out results --ablation
    python -m lngd_bench.studies.language --out results --tasks gpt-6x256 --rates-of gpt-240 --optimizers muon-fp32 lngd-spectral

Prints each run as it ends and writes language.md, language.png and language.jsonl.gz, of everything that the archive has; what
it has is not made again. Processes with different optimizers may fill one archive.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lngd_bench import archive
from lngd_bench.competitors import peers
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.language.ablation import METHOD, ablated
from lngd_bench.studies.language.drawing import draw
from lngd_bench.studies.language.page import page, rows_of, sizes
from lngd_bench.studies.language.runs import OURS, RIVALS, TASKS, Runs, Wanted, in_steps, rates, tuning
from lngd_bench.tasks.task import Task

STUDY = "language"


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/language"), metavar="DIR", help="where the archive is")
    parser.add_argument("--tasks", nargs="+", default=["gpt-240"], choices=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", default=[*RIVALS, *OURS], choices=list(OPTIMIZERS))
    rates_of = "at the rates that this task's trials chose, instead of trials of its own"
    parser.add_argument("--rates-of", choices=list(TASKS), metavar="TASK", help=rates_of)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of the task's own number")
    parser.add_argument("--ablation", action="store_true", help="SpectralLNGD with one thing changed at a time, too")
    return parser.parse_args(words)


def compare(
    runs: Runs, task: Task, optimizers: Sequence[str], seeds: Sequence[int], *, ablation: bool, tuned_on: Task | None = None
) -> None:
    """All runs of a task: trials, unless another's do, reports in turn within a seed, changes."""
    settings = [(name, *best_rates(runs, tuned_on or task, name)) for name in optimizers]
    untuned = [(name, *rates(name)) for name in optimizers if name in OURS and tuned_on is None]
    for seed in seeds:
        for name, lr, rest in [*settings, *untuned]:
            runs.of(Wanted(task=task, optimizer=name, lr=lr, rest=rest, seed=seed))
    if ablation:
        ablated(runs, task, *best_rates(runs, task, METHOD), seeds)


def best_rates(runs: Runs, task: Task, optimizer: str) -> tuple[float, float | None]:
    trials = tuning(runs, task, optimizer)
    return rates(optimizer, min(trials, key=trials.__getitem__))


def write(runs: Runs, directory: Path, command: str) -> str:
    """The page and the picture. Returns the page."""
    lines = runs.lines
    said = page(lines, command)
    archive.put(directory / f"{STUDY}.md", said.encode())
    shown = {}
    for name, steps in sizes(lines):
        own = [line for line in lines if (line["task"], line["steps"]) == (name, steps)]
        rows, was_tuned = rows_of(own), any(line["held_out"] for line in own)
        if was_tuned and any(row.optimizer not in OURS for row in rows):
            shown[f"{TASKS[name].title}, {steps} steps" if name in TASKS else name] = rows
    if shown:
        archive.put(directory / f"{STUDY}.png", draw(shown))
    return said


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for module in filter(None, (OPTIMIZERS[name].third_party for name in given.optimizers)):
        peers.library(module)
    runs = Runs(given.out / f"{STUDY}{archive.ENDING}")
    for name in given.tasks:
        task = in_steps(TASKS[name], given.steps) if given.steps else TASKS[name]
        tuned_on = TASKS[given.rates_of] if given.rates_of else None
        compare(runs, task, given.optimizers, given.seeds, ablation=given.ablation, tuned_on=tuned_on)
    print(f"\n{write(runs, given.out, f'python -m lngd_bench.studies.language {shlex.join(words)}')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(f"lngd: {error}")
