"""What variants of the step, kinds of layers and default values were measured with. Runs add up in an archive of their own.

    python -m lngd_bench.studies.variants variants
    python -m lngd_bench.studies.variants layers --tasks stdlib-charlm fashion-resnet --steps 200 --seeds 1000 1001
    python -m lngd_bench.studies.variants defaults --steps 400 --lr 0.5 1 --damping 0.1 0.3 1
    python -m lngd_bench.studies.variants defaults --method KFAC --tasks mnist-cnn --lr 0.1 0.2 --kl-clip 0.001 0.01
    python -m lngd_bench.studies.variants lengths cifar10-resnet18 kfac --at 6 51 101 161 191

Prints each run as it ends and writes NAME.md beside NAME.jsonl.gz; runs that the archive has are not made again. `lengths` only
prints.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.results import MISSING, markdown, text
from lngd_bench.studies.variants import changes, defaults, lengths, norms
from lngd_bench.studies.variants.runs import Line, add
from lngd_bench.tasks import TASKS


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="name", required=True)
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--out", type=Path, default=Path("runs/variants"), metavar="DIR", help="where the archive is")

    variants = names.add_parser("variants", parents=[places], help="one thing of the step changed at a time")
    variants.add_argument("--tasks", nargs="+", default=list(changes.TASKS), choices=list(changes.TASKS))
    variants.add_argument("--seeds", nargs="+", type=int, default=list(changes.SEEDS))
    variants.add_argument("--steps", type=int, help="instead of a third of the full schedule")

    layers = names.add_parser("layers", parents=[places], help="curvature for embeddings and normalisations")
    layers.add_argument("--tasks", nargs="+", default=["stdlib-charlm", "fashion-resnet"], choices=list(TASKS))
    layers.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])
    layers.add_argument("--steps", type=int, default=200)

    grid = names.add_parser("defaults", parents=[places], help="lr, damping and interval together")
    grid.add_argument("--tasks", nargs="+", default=["fashion-mlp", "fashion-cnn", "fashion-resnet"], choices=list(TASKS))
    grid.add_argument("--steps", type=int, default=400)
    grid.add_argument("--method", default="LNGD", choices=list(defaults.METHODS))
    for name, default in (("lr", 0.5), ("damping", 0.3), ("curvature-every", 20)):
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


def every_run(lines: Sequence[Line]) -> str:
    """A row for each run, a column for whatever was set."""
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in ("date", "diverged")]

    def cell(value: object) -> str:
        return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return markdown(names, [[cell(line.get(name)) for name in names] for line in lines], words=len(names))


def page(name: str, lines: Sequence[Line], command: str) -> str:
    dates = sorted({line["date"][:10] for line in lines if "date" in line})
    table = changes.table(lines) if name == "variants" else every_run(lines)
    return f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n{table}"


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.name == "lengths":
        print(text(lengths.HEADINGS, list(lengths.rows(given.task, given.optimizer, given.at)), words=0))
        return
    wanted = {"variants": changes.wanted, "layers": norms.wanted}
    runs = defaults.wanted(given) if given.name == "defaults" else wanted[given.name](given.tasks, given.seeds, given.steps)
    file, path = f"{given.name}.jsonl", given.out / f"{given.name}{archive.ENDING}"
    for line in add(path, file, runs):
        print(json.dumps(line), flush=True)
    said = page(given.name, archive.read(path)[file], f"python -m lngd_bench.studies.variants {shlex.join(words)}")
    archive.put(path.with_name(f"{given.name}.md"), said.encode())
    print(f"\n{said}\nWritten: {path}, {path.with_name(f'{given.name}.md')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(f"lngd: {error}")
