"""What variants of the step, kinds of layers and default values were measured with. Runs add up in an archive of their own.

    python -m lngd_bench.studies.variants variants
    python -m lngd_bench.studies.variants scales
    python -m lngd_bench.studies.variants raw
    python -m lngd_bench.studies.variants uses
    python -m lngd_bench.studies.variants transfer
    python -m lngd_bench.studies.variants layers --tasks stdlib-charlm --steps 200 --seeds 1000 1001
    python -m lngd_bench.studies.variants defaults --steps 400 --lr 0.5 1 --damping 0.1 0.3 1
    python -m lngd_bench.studies.variants defaults --method KFAC --tasks mnist-cnn --lr 0.1 0.2 --kl-clip 0.001 0.01
    python -m lngd_bench.studies.variants lengths cifar10-resnet18 kfac --at 6 51 101 161 191

Prints each run as it ends and writes NAME.md beside NAME.jsonl.gz; runs that the archive has are not made again. `lengths` only
prints how far each step of a race goes, at seed 0 and the task's own settings.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from lngd.optimizer import NaturalGradient
from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS, fingerprint_of, is_current
from lngd_bench.errors import BenchError
from lngd_bench.ledger import Ledger, Line
from lngd_bench.studies.results import MISSING, markdown, text
from lngd_bench.studies.variants import changes, defaults, raw, scales, transfer, uses
from lngd_bench.tasks import TASKS
from lngd_bench.training.race import plan
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import Run

TABLES = {
    "variants": changes.table,
    "scales": scales.table,
    "raw": raw.table,
    "transfer": transfer.table,
    "uses": uses.table,
}
"""Of studies at the defaults of the day, which drop runs of other days; the others' pages have a row for every run."""
FOUND = ("train_loss", "metric", "diverged")
"""Of a run."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="name", required=True)
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--out", type=Path, default=Path("runs/variants"), metavar="DIR", help="where the archive is")

    variants = names.add_parser("variants", parents=[places], help="one thing of the step changed at a time")
    variants.add_argument("--tasks", nargs="+", default=list(changes.TASKS), choices=list(changes.TASKS))
    variants.add_argument("--seeds", nargs="+", type=int, default=list(changes.SEEDS))
    variants.add_argument("--steps", type=int, help="instead of a third of the full schedule")

    data = names.add_parser("raw", parents=[places], help="damping of layers that see the data themselves")
    data.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])

    found = names.add_parser("uses", parents=[places], help="curvature for weights that no module's call stands for")
    found.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])

    sizes = names.add_parser("transfer", parents=[places], help="one rate for every width and depth")
    sizes.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])

    small = names.add_parser("scales", parents=[places], help="losses and targets of other scales, weights that begin at zero")
    small.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])

    layers = names.add_parser("layers", parents=[places], help="curvature for embeddings")
    layers.add_argument("--tasks", nargs="+", default=["stdlib-charlm"], choices=list(TASKS))
    layers.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])
    layers.add_argument("--steps", type=int, default=200)

    grid = names.add_parser("defaults", parents=[places], help="lr, damping and interval together")
    grid.add_argument("--tasks", nargs="+", default=["fashion-mlp", "fashion-cnn", "fashion-resnet"], choices=list(TASKS))
    grid.add_argument("--steps", type=int, default=400)
    grid.add_argument("--method", default="LNGD", choices=list(defaults.METHODS))
    for name, default in (("lr", defaults.OWN["lr"]), ("damping", defaults.OWN["damping"]), ("curvature-every", 20)):
        grid.add_argument(f"--{name}", nargs="+", type=type(default), default=[default])
    grid.add_argument("--kl-clip", nargs="+", type=float, default=[None], metavar="κ", help="step_size=KLClip(κ)")
    reverted = "one run of LNGD each with this as in lngd.PAPER: an argument, or what belongs to one, such as schedule.ramp"
    grid.add_argument("--revert", nargs="+", default=[None], choices=defaults.REVERTIBLE, metavar="NAME", help=reverted)
    grid.add_argument("--baseline", choices=list(OPTIMIZERS), help="instead of LNGD, another optimizer; --lr are its rates")

    steps = names.add_parser("lengths", help="how far each step of a race goes")
    steps.add_argument("task", choices=list(TASKS))
    steps.add_argument("optimizer", choices=list(OPTIMIZERS))
    steps.add_argument("--at", type=int, nargs="+", default=[1, 10, 100], help="steps, counted from 1")
    return parser.parse_args(words)


def end_of(measure: Callable[[], Epoch]) -> Line:
    """What is kept of a run."""
    last = measure()
    return {name: getattr(last, name) for name in FOUND}


def every_run(lines: Sequence[Line]) -> str:
    """A row for each run, a column for whatever was set."""
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in ("date", "diverged")]

    def cell(value: object) -> str:
        return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return markdown(names, [[cell(line.get(name)) for name in names] for line in lines], words=len(names))


def lengths(task: str, optimizer: str, at: Sequence[int]) -> list[list[str]]:
    """After each step asked for: lr, the medians over layers of lr · α (none for optimizers without) and of ‖ΔW‖ / ‖W‖."""
    (spec,) = plan([TASKS[task]], [optimizer], [0])
    run = Run(spec, spec.task.data(None).first(spec.task.samples))
    learner = run.learner
    found: list[list[str]] = []
    before: dict[str, Tensor] = {}
    lr = 0.0

    def remember(step: int) -> None:
        nonlocal before, lr
        weights = {name: p.detach().clone() for name, p in learner.model.named_parameters() if p.ndim > 1}
        if step in at:
            moved = median(float((weights[name] - old).norm() / old.norm()) for name, old in before.items())
            rates = [float(r) for r in learner.optimizer.rates.values()] if isinstance(learner.optimizer, NaturalGradient) else []
            found.append([str(step), f"{lr:.2g}", f"{lr * median(rates):.2g}" if rates else MISSING, f"{moved:.2g}"])
        before, lr = weights, learner.optimizer.param_groups[0]["lr"]

    remember(0)
    learner.watch = remember
    while learner.steps_done < max(at):
        run.epoch()
    return found


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.name == "lengths":
        print(text(("step", "lr", "lr · α", "‖ΔW‖/‖W‖"), lengths(given.task, given.optimizer, given.at), words=0))
        return
    wanted = {
        "variants": changes.wanted,
        "layers": changes.wanted_of_layers,
        "defaults": defaults.wanted,
        "scales": scales.wanted,
        "raw": raw.wanted,
        "uses": uses.wanted,
        "transfer": transfer.wanted,
    }[given.name]
    file, path = f"{given.name}.jsonl", given.out / f"{given.name}{archive.ENDING}"
    ledger = Ledger(path, file, found=FOUND, keeps=is_current if given.name in TABLES else lambda _line: True)
    for asked, measure in wanted(given):
        ledger.run({**asked, "defaults": fingerprint_of(asked)}, partial(end_of, measure))
    lines = ledger.lines
    dates = sorted({line["date"][:10] for line in lines if "date" in line})
    table = TABLES.get(given.name, every_run)(lines)
    if given.name == "transfer":
        archive.put(path.with_name("transfer.png"), transfer.draw(lines))
        table += "\n![Loss against rate, a curve for each size](transfer.png)\n"
    command = f"python -m lngd_bench.studies.variants {shlex.join(words)}"
    said = f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n{table}"
    archive.put(path.with_name(f"{given.name}.md"), said.encode())
    print(f"\n{said}\nWritten: {path}, {path.with_name(f'{given.name}.md')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(f"lngd: {error}")
