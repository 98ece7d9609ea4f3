"""What several processes send beside their gradients, what they share, and what a step of many would take.

    python -m lngd_bench.studies.processes --out results

Prints the tables and writes processes.md. Bytes are made of shapes, on no device; `tests/optimizer/test_processes.py` counts
those of statistics and rates under DistributedDataParallel. Seconds are those of one, two and four processes on this machine.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lngd_bench import archive
from lngd_bench.studies.processes.rates import SEEDS, ends
from lngd_bench.studies.processes.scaled import TOKENS, Machine, steps
from lngd_bench.studies.processes.sent import METHODS, MODELS, Sizes, peers
from lngd_bench.studies.processes.timed import BATCH, LENGTH, measured, predicted
from lngd_bench.studies.results import markdown

PROCESSES, MANY, HERE = 8, (8, 64, 512, 4096), (1, 2, 4)
LARGE = "GPT, 1.3 B"


def reduced() -> str:
    """Bytes that DistributedDataParallel's processes reduce."""
    rows = []
    for model in MODELS:
        for method in METHODS:
            sizes = Sizes.of(model, method)
            share = (sizes.rates + sizes.statistics) / sizes.gradients
            cells = (f"{sizes.gradients / 1e6:,.0f}", f"{sizes.statistics / 1e6:.2f}", f"{sizes.rates:,}", f"{100 * share:.2f} %")
            rows.append((model, method, *cells))
    headings = ("", "", "gradients, MB", "statistics over the interval, MB", "rates, bytes", "both over gradients")
    return markdown(headings, rows, words=2)


def received() -> str:
    """What a process receives in all, over what AdamW's does."""
    rows = []
    for model in MODELS:
        gradients = Sizes.of(model, "LNGD").ddp(PROCESSES)[0]
        rows += [(model, name, f"{1 + extra / gradients:.3f}", "1.000") for name, extra in peers(model, PROCESSES).items()]
        for method in METHODS:
            sizes = Sizes.of(model, method)
            (with_ddp, more), (with_shards, also) = sizes.ddp(PROCESSES), sizes.fsdp(PROCESSES)
            rows.append((model, method, f"{1 + more / with_ddp:.3f}", f"{1 + also / with_shards:.3f}"))
    rows = [(*row[:3], "–" if row[1] in ("Muon", "DistributedShampoo") else row[3]) for row in rows]
    return markdown(("", "", "DistributedDataParallel", "fully_shard"), rows, words=2)


def timed(cores: int) -> str:
    """This machine's processes, and the model of them."""
    found = {count: measured(count) for count in HERE}
    rows = []
    for count, here in found.items():
        guess = predicted(found[1], here, count, cores)
        share = here.preconditioning / found[1].preconditioning
        cells = (f"{1e3 * here.preconditioning:.0f}", f"{share:.2f}", f"{1e3 * here.step:.0f}", f"{1e3 * guess:.0f}")
        rows.append((str(count), *cells, f"{100 * (guess / here.step - 1):+.0f} %"))
    headings = ("processes", "preconditioning, CPU ms", "over one's", "step, ms", "predicted", "off by")
    return markdown(headings, rows)


def along() -> str:
    """LNGD with whole directions at every step and once in an interval."""
    rows = []
    for lr, both in ends().items():
        means = [statistics.mean(losses) for losses in both]
        rows.append(
            (f"{lr:g}", *(f"{mean:.4f}" for mean in means), " ".join(f"{b - a:+.3f}" for a, b in zip(*both, strict=True)))
        )
    return markdown(
        ("lr", "every step", "along whole directions once in 20 steps, sharded", "the latter − the former, by seed"), rows
    )


def many() -> str:
    """Milliseconds of a step on many GPUs."""
    rows = []
    for count in MANY:
        for name, step in steps(LARGE, count).items():
            parts = (step.passes, step.gradients, step.optimizer, step.exchange, step.total)
            rows.append((f"{count:,}", name, *(f"{1e3 * part:.1f}" for part in parts)))
    headings = ("GPUs", "", "passes", "gradients", "directions", "the optimizer's exchange", "step")
    return markdown(headings, rows, words=2)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/processes"), metavar="DIR", help="where processes.md goes")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="that the processes share on this machine")
    given = parser.parse_args(words)
    command, on = shlex.join(["python", "-m", "lngd_bench.studies.processes", *words]), Machine()
    said = f"""`{command}`, {datetime.now(UTC):%Y-%m-%d}.

## Bytes a step that a process has reduced under DistributedDataParallel, in float32

{reduced()}
## What a process receives at a step, over AdamW's, {PROCESSES} processes

Collectives go round rings: an all-reduce takes twice the bytes of an all-gather. Muon is torch's, of which every process does all
of the work. DistributedShampoo gathers the updates that each process makes a share of.

{received()}
## Spectral LNGD in processes of gloo on {given.cores} cores

A GPT of 3 layers of width 256, {BATCH} sequences of {LENGTH} tokens for each process. The prediction takes one process's times,
and the latency and bandwidth of all-reduces as measured with so many processes.

{timed(given.cores)}
## LNGD on the character GPT of 240 steps, its rate measured along whole directions

Validation losses, means of {len(SEEDS)} seeds. Sharded is `fully_shard` in two processes, with half a batch each. In \
between dᵀFd is the sum over the processes of that along the rows of each, times the last ratio of the two.

{along()}
## {LARGE}, on many GPUs: arithmetic, nothing was run

Milliseconds. {TOKENS:,} tokens for each GPU; {on.low / 1e12:.0f} TFLOP/s in bfloat16 and {on.full / 1e12:.0f} in float32, \
{on.inside / 1e9:.0f} GB/s in a node of {on.node} and {on.between / 1e9:.0f} between nodes, {1e6 * on.hop:.0f} µs a collective and
doubling. Two thirds of the passes hide the gradients' average; nothing hides the optimizer's.

{many()}"""
    archive.put(given.out / "processes.md", said.encode())
    print(said)


if __name__ == "__main__":
    main(sys.argv[1:])
