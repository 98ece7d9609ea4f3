"""AdamW, Muon, SOAP, K-FAC, LNGD and Spectral LNGD on eighteen small tasks, each tuned by eight trials.

    python -m lngd_bench.studies.beyond --out results
    python -m lngd_bench.studies.beyond --tasks vae dqn --optimizers adamw lngd-spectral --seeds 0
    python -m lngd_bench.studies.beyond --time

Prints each run as it ends and writes beyond.md beside beyond.jsonl.gz; runs that the archive has are not made again.
The page is of the tasks, optimizers and seeds of the last call. `--time` makes one untuned run each and prints its seconds only.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.studies.beyond.page import page
from lngd_bench.studies.beyond.rivals import RIVALS
from lngd_bench.studies.beyond.search import outcome
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.studies.beyond.training import Runs, Spec, trained


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/beyond"), metavar="DIR", help="where the archive is")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the report")
    parser.add_argument("--steps", type=int, help="instead of the task's own")
    parser.add_argument("--time", action="store_true", help="one untuned run each")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pairs = list(product(given.tasks, given.optimizers))
    if given.time:
        for task, optimizer in pairs:
            end = trained(Spec(task, optimizer, RIVALS[optimizer].untuned, given.seeds[0], given.steps or TASKS[task].steps))
            print(f"{task:16} {optimizer:14} {end['seconds']:6.2f} s  {TASKS[task].measure} {end['value']:.4g}", flush=True)
        return
    path = given.out / f"beyond{archive.ENDING}"
    runs = Runs(path)
    found = {pair: outcome(runs, *pair, seeds=given.seeds, steps=given.steps) for pair in pairs}
    dates = sorted(line["date"][:10] for line in runs.lines) or [datetime.now(UTC).date().isoformat()]
    command = shlex.join(["python", "-m", "lngd_bench.studies.beyond", *words])
    said = f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n{page(found, given.seeds)}"
    archive.put(path.with_name("beyond.md"), said.encode())
    print(f"\n{said}\nWritten: {path}, {path.with_name('beyond.md')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(f"lngd: {error}")
