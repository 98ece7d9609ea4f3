"""`lngd fisher`: how near LNGD's Fisher block and its relatives come to the exact one, at several points of a training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd.linalg import Damping
from lngd_bench.cli import options
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, THOR_SPLIT, Comparison, approximate, compare
from lngd_bench.studies.fisher.drawing import FILE, STUDY, FisherBlocks, draw, kronecker_factors, weights_only
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.results import MISSING, leave, markdown, text
from lngd_bench.tasks import at_scale
from lngd_bench.tasks.data import Split, in_memory
from lngd_bench.tasks.task import Scale, Task
from lngd_bench.training.race import rate_of
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.records import finite
from lngd_bench.training.train import DivergenceError, Learner, RunSpec

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


@dataclass(frozen=True)
class Stop:
    """The model at one point of training."""

    name: str
    step: int
    curvature: ExactCurvature


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
    for stop in _training(task, seed, split, few):
        layers |= {name: f"{layer.inputs - 1}→{layer.outputs}" for name, layer in stop.curvature.layers.items()}
        rows = _measured(stop, few, damping)
        lines += rows
        console.print(f"\n{table(rows, layers)}", markup=False, soft_wrap=True)
    lines += [_blocks(stop, damping, layers[DRAWN]).line(), {"event": "end"}]
    written = leave(out, STUDY, {FILE: lines}, page(lines), draw(lines, FisherBlocks.from_line(lines[-2])))
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
    names = [field.name for field in fields(Comparison) if field.name not in ("layer", "method")]
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


def _training(task: Task, seed: int, split: Split, few: Split) -> Iterator[Stop]:
    """The start, after the first epoch, the middle, the end."""
    total = task.total_epochs
    names = {1: "first epoch", total // 2: "middle", 0: "start", total: "end"}
    randomness = PrivateRandomness(seed)
    with randomness.active():
        learner = Learner(RunSpec(task, OPTIMIZER, rate_of(task, OPTIMIZER), seed), split)
    for epoch in range(total + 1):
        if epoch:
            _train_epoch(learner, randomness)
        if epoch in names:
            yield Stop(names[epoch], learner.steps_done, ExactCurvature(learner.model, few.train_x))


def _train_epoch(learner: Learner, randomness: PrivateRandomness) -> None:
    try:
        with randomness.active():
            learner.train_epoch()
    except DivergenceError as error:
        raise BenchError(f"the training diverged: {error}; try another --seed") from error


def _measured(stop: Stop, few: Split, damping: float) -> list[dict[str, Any]]:
    """A line for each layer and method."""
    try:
        rows = [asdict(row) for row in compare(stop.curvature, few.train_y, damping)]
    except ValueError as error:
        raise BenchError(f"{stop.name}, step {stop.step}: {error}") from error
    place = {"event": "row", "moment": stop.name, "step": stop.step}
    return [place | {name: finite(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def _blocks(stop: Stop, damping: float, heading: str) -> FisherBlocks:
    """Of the drawn layer, as they are at the end."""
    outputs = stop.curvature.layers[DRAWN].outputs
    exact = weights_only(stop.curvature.fisher(DRAWN), outputs)
    approximations = {name: approximate(stop.curvature, DRAWN, name, Damping(damping)).dense() for name in IN_FIG_5}
    factors = {name: kronecker_factors(weights_only(dense, outputs), outputs) for name, dense in approximations.items()}
    title = f"Fisher block of the first {heading} layer, weights only, after {stop.step} steps of LNGD"
    return FisherBlocks(title, exact, factors)
