"""`lngd fisher`: how near LNGD's Fisher block and its relatives come to the exact one, at several points of a training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd.linalg import Damping
from lngd_bench.cli import options
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, THOR_SPLIT, approximate, compare
from lngd_bench.studies.fisher.drawing import FisherBlocks, draw, kronecker_factors, weights_only
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.results import MISSING, leave, markdown, text
from lngd_bench.tasks import at_scale
from lngd_bench.tasks.data import Split, in_memory
from lngd_bench.tasks.task import Scale, Task
from lngd_bench.training.race import rate_of
from lngd_bench.training.records import finite
from lngd_bench.training.train import Run, RunSpec

STUDY = "fisher"
TASK = "mnist-fisher"
OPTIMIZER = "lngd"
DRAWN = "3"  # the layer of the paper's figures, the first with 20 inputs and 20 outputs
IN_FIG_5 = ("LNGD", "K-FAC", "TKFAC")
LEAST, GRADIENT = "any Ψ", "∇ itself"
SAMPLES = 500  # or all, where there are fewer; a megabyte each
LEGEND = f"""F is a layer's exact Fisher block, bias included, F̂ its approximation; columns are layers.
Error: ‖cF̂ − F‖ / ‖F‖ with the scale c that is best for F̂. 0 is exact, 1 no better than F̂ = 0.
{LEAST}: the least error of any block with a diagonal Ψ, such as LNGD's.
Cosine: between the damped F̂⁻¹∇ and (F + λI)⁻¹∇. {GRADIENT}: the cosine without any curvature.
LNGD-lr: LNGD's block made of back-propagated g. THOR: K-FAC's factors in blocks of {THOR_SPLIT}."""

Line = Mapping[str, Any]


def fisher(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where fisher.md, .png and .jsonl.gz go.")] = Path(
        "runs/fisher"
    ),
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
    epochs: options.Epochs = None,
    samples: Annotated[int | None, typer.Option(min=1, help=f"Training samples in the expectations. [{SAMPLES}]")] = None,
    damping: Annotated[float, typer.Option(help="Of the directions, relative to the mean eigenvalue.")] = 0.3,
    scale: Annotated[Scale, typer.Option("--scale", help="All of MNIST, 4,000 digits, 128 digits.")] = "here",
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
) -> None:
    """Compare LNGD's Fisher block and its relatives with the exact one as a small net trains: the paper's Figs. 1 and 5."""
    if not (math.isfinite(damping) and damping > 0):
        raise BenchError(f"--damping {damping}: give a number greater than 0")
    if threads:
        torch.set_num_threads(threads)
    task = at_scale(TASK, scale)
    task = replace(task, epochs=epochs or task.epochs)
    split = in_memory(task.data(data_dir)).first(task.samples)
    few = split.first(samples or min(SAMPLES, task.samples))
    make_directory(out)
    settings = {"seed": seed, "samples": len(few.train_x), "damping": damping, "torch": str(torch.__version__)}
    origin = {"command": command_line(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    layers: dict[str, str] = {}
    start = {"event": "start", **origin, "task": task.name, **settings, "config": task.config(), "layers": layers}
    lines: list[dict[str, Any]] = [start]
    console.print(f"{caption(lines)}\n{LEGEND}", markup=False, soft_wrap=True)
    for moment, step, curvature in _training(task, seed, split, few):
        layers |= {name: f"{layer.inputs - 1}→{layer.outputs}" for name, layer in curvature.layers.items()}
        rows = []
        try:
            for row in compare(curvature, few.train_y, damping):
                known = {name: finite(value) if isinstance(value, float) else value for name, value in row.items()}
                rows.append({"event": "row", "moment": moment, "step": step, **known})
        except ValueError as error:
            raise BenchError(f"{moment}, step {step}: {error}") from error
        lines += rows
        console.print(f"\n{table(rows, layers)}", markup=False, soft_wrap=True)
    title = f"Fisher block of the first {layers[DRAWN]} layer, weights only, after {step} steps of LNGD"
    lines += [_blocks(curvature, damping, title).line(), {"event": "end"}]
    written = leave(out, STUDY, {f"{STUDY}.jsonl": lines}, page(lines), draw(lines))
    console.print(f"\n{written}", markup=False, soft_wrap=True)


def caption(lines: Sequence[Line]) -> str:
    start = lines[0]
    return (
        f"{start['config']['title']}, trained by LNGD, seed {start['seed']}.\n"
        f"Expectations over {start['samples']} training samples; damping {start['damping']:g} of the mean eigenvalue."
    )


def table(rows: Sequence[Line], layers: Mapping[str, str]) -> str:
    """One point of training: a row for each method with the layers' errors and cosines; then what to compare them with."""
    by_method = {method: [row for row in rows if row["method"] == method] for method in APPROXIMATIONS}
    blank = [""] * len(layers)

    def numbers(method: str, name: str) -> list[str]:
        return [MISSING if row[name] is None else f"{row[name]:.3f}" for row in by_method[method]]

    body = [[method, *numbers(method, "scaled_error"), *numbers(method, "cosine")] for method in APPROXIMATIONS]
    body.append([LEAST, *numbers(OPTIMIZER.upper(), "outputwise_error"), *blank])
    body.append([GRADIENT, *blank, *numbers(OPTIMIZER.upper(), "gradient_cosine")])
    headings = ["", *(f"{what}\n{layer}" for what in ("error", "cosine") for layer in layers.values())]
    return f"{rows[0]['moment']}, step {rows[0]['step']}\n{text(headings, body)}"


def page(lines: Sequence[Line]) -> str:
    """The tables, then every number of every row, of a record."""
    start, rows = lines[0], [line for line in lines if line["event"] == "row"]
    moments = dict.fromkeys(row["moment"] for row in rows)
    tables = [table([row for row in rows if row["moment"] == moment], start["layers"]) for moment in moments]
    names = [name for name in rows[0] if name not in ("event", "moment", "step", "layer", "method")]
    headings = ["", "layer", "method", *(name.replace("_", " ") for name in names)]
    every = [
        [row["moment"], row["layer"], row["method"], *(MISSING if row[name] is None else f"{row[name]:.4g}" for name in names)]
        for row in rows
    ]
    parts = (
        f"`{start['command']}`, {start['date'][:10]}, torch {start['torch']}.",
        "# Fisher blocks against the exact one",
        caption(lines),
        f"![The blocks, and their errors and cosines over the training]({STUDY}.png)",
        "\n".join(f"- {line}" for line in LEGEND.splitlines()),
        *(f"```\n{one}\n```" for one in tables),
        "`lngd figure 1` and `lngd figure 5` draw the paper's figures from the records.",
        "## Every number",
        markdown(headings, every, words=3),
    )
    return "\n\n".join(parts)


def _training(task: Task, seed: int, split: Split, few: Split) -> Iterator[tuple[str, int, ExactCurvature]]:
    """Name, step and curvature at the start, after the first epoch, in the middle and at the end."""
    total = task.total_epochs
    names = {1: "first epoch", total // 2: "middle", 0: "start", total: "end"}
    run = Run(RunSpec(task, OPTIMIZER, rate_of(task, OPTIMIZER), seed), split)
    for epoch in range(total + 1):
        if epoch and (row := run.epoch()).diverged:
            raise BenchError(f"the training diverged: {row.reason}; try another --seed")
        if epoch in names:
            yield names[epoch], run.learner.steps_done, ExactCurvature(run.learner.model, few.train_x)


def _blocks(curvature: ExactCurvature, damping: float, title: str) -> FisherBlocks:
    """Of the drawn layer."""
    outputs = curvature.layers[DRAWN].outputs
    exact = weights_only(curvature.fisher(DRAWN), outputs)
    approximations = {name: approximate(curvature, DRAWN, name, Damping(damping)).dense() for name in IN_FIG_5}
    factors = {name: kronecker_factors(weights_only(dense, outputs), outputs) for name, dense in approximations.items()}
    return FisherBlocks(title, exact, factors)
