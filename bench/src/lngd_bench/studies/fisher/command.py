"""`lngd fisher`: how near LNGD's Fisher block and its relatives come to the exact one, at several points of a training."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd.linalg import Damping
from lngd_bench.cli import options
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.blocks import FILE, FisherBlocks
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, THOR_SPLIT, Comparison, approximate, compare
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.fisher.figures import Moment, draw_enlarged, draw_side_by_side, draw_training, weights_only
from lngd_bench.tasks import at_scale
from lngd_bench.tasks.data import Split, in_memory
from lngd_bench.tasks.task import Changes, Scale, Task
from lngd_bench.training.race import rate_of
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.records import finite
from lngd_bench.training.train import DivergenceError, Learner, RunSpec

TASK = "mnist-fisher"
OPTIMIZER = "lngd"
DRAWN = "3"  # the layer of the paper's figures, the first with 20 inputs and 20 outputs
IN_FIG_5 = ("LNGD", "K-FAC", "TKFAC")
FIGURES = ("1", "5")
OUT = Path("runs/fisher")
LEAST, GRADIENT = "any Ψ", "∇ itself"
MISSING = "–"
SAMPLES = 500  # or all, where there are fewer; a megabyte each
WIDTH = 8  # of a column of text
LEGEND = f"""F is a layer's exact Fisher block, bias included, F̂ its approximation; columns are layers.
Error: ‖cF̂ − F‖ / ‖F‖ with the scale c that is best for F̂. 0 is exact, 1 no better than F̂ = 0.
{LEAST}: the least error of any block with a diagonal Ψ, such as LNGD's.
Cosine: between the damped F̂⁻¹∇ and (F + λI)⁻¹∇. {GRADIENT}: the cosine without any curvature.
LNGD-lr: LNGD's block made of back-propagated g. THOR: K-FAC's factors in blocks of {THOR_SPLIT}."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and on what."""

    task: Task
    seed: int
    samples: int
    damping: float

    def caption(self) -> str:
        return (
            f"{self.task.title}, trained by LNGD, seed {self.seed}.\n"
            f"Expectations over {self.samples} training samples; damping {self.damping:g} of the mean eigenvalue."
        )


@dataclass(frozen=True)
class Stop:
    """The model at one point of training."""

    name: str
    step: int
    curvature: ExactCurvature

    def headings(self) -> dict[str, str]:
        """196→20 and so on, by the layers' names."""
        return {name: f"{layer.inputs - 1}→{layer.outputs}" for name, layer in self.curvature.layers.items()}


def fisher(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where tables and figures go.")] = OUT,
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
    epochs: options.Epochs = None,
    samples: Annotated[int | None, typer.Option(min=1, help=f"Training samples in the expectations. [{SAMPLES}]")] = None,
    damping: Annotated[float, typer.Option(help="Of the directions, relative to the mean eigenvalue.")] = 0.3,
    scale: Annotated[Scale, typer.Option("--scale", help="All of MNIST, 4,000 digits, 128 digits.")] = "here",
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
) -> None:
    """Compare LNGD's Fisher block and its relatives with the exact one as a small net trains; draw the paper's Figs. 1 and 5."""
    if not (math.isfinite(damping) and damping > 0):
        raise BenchError(f"--damping {damping}: give a number greater than 0")
    if threads:
        torch.set_num_threads(threads)
    task = Changes(epochs=epochs).apply(at_scale(TASK, scale))
    plan = Plan(task, seed, samples or min(SAMPLES, task.samples), damping)
    split = in_memory(task.data(data_dir)).first(task.samples)
    few = split.first(plan.samples)
    make_directory(out)
    console.print(f"{plan.caption()}\n{LEGEND}", markup=False, soft_wrap=True)
    moments: list[Moment] = []
    for stop in _training(plan, split, few):
        moments.append(_measured(stop, few, damping))
        console.print(f"\n{_text(moments[-1], stop.headings())}", markup=False, soft_wrap=True)
    blocks = _blocks(plan, stop)
    written = [*_write_tables(plan, moments, stop.headings(), out), _write_records(plan, moments, blocks, out)]
    written += [*(draw_blocks(number, blocks, out) for number in FIGURES), _draw_training(plan, moments, stop, out)]
    console.print("\nWritten: " + ", ".join(map(str, written)), markup=False, soft_wrap=True)


def _training(plan: Plan, split: Split, few: Split) -> Iterator[Stop]:
    """The start, after the first epoch, the middle, the end."""
    total = plan.task.total_epochs
    names = {1: "first epoch", total // 2: "middle", 0: "start", total: "end"}
    randomness = PrivateRandomness(plan.seed)
    with randomness.active():
        learner = Learner(RunSpec(plan.task, OPTIMIZER, rate_of(plan.task, OPTIMIZER), plan.seed), split)
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


def _measured(stop: Stop, few: Split, damping: float) -> Moment:
    try:
        return Moment(stop.name, stop.step, tuple(compare(stop.curvature, few.train_y, damping)))
    except ValueError as error:
        raise BenchError(f"{stop.name}, step {stop.step}: {error}") from error


def _grid(moment: Moment) -> list[list[str]]:
    """A row for each method: its name, the layers' errors, the layers' cosines; then what to compare them with."""
    by_method = {method: [row for row in moment.rows if row.method == method] for method in APPROXIMATIONS}
    lines = [
        [method, *(_number(row.scaled_error) for row in rows), *(_number(row.cosine) for row in rows)]
        for method, rows in by_method.items()
    ]
    any_method = by_method[IN_FIG_5[0]]
    least = [LEAST, *(_number(row.outputwise_error) for row in any_method), *("" for _ in any_method)]
    plain = [GRADIENT, *("" for _ in any_method), *(_number(row.gradient_cosine) for row in any_method)]
    return [*lines, least, plain]


def _text(moment: Moment, headings: dict[str, str]) -> str:
    """A table of 90 columns for five layers."""
    titles = ["error".center(WIDTH * len(headings)), "cosine".center(WIDTH * len(headings))]
    lines = [["", *headings.values(), *headings.values()], *_grid(moment)]
    columns = ["".join(cell.rjust(WIDTH) for cell in line[1:]) for line in lines]
    body = [f"{line[0]:<{WIDTH}}{rest}".rstrip() for line, rest in zip(lines, columns, strict=True)]
    return "\n".join([f"{moment.name}, step {moment.step}", f"{'':<{WIDTH}}{''.join(titles)}".rstrip(), *body])


def _markdown(moment: Moment, headings: dict[str, str]) -> list[str]:
    names = ["", *(f"error {name}" for name in headings.values()), *(f"cosine {name}" for name in headings.values())]
    return [f"### {moment.name}, step {moment.step}", "", *_lines([names, *_grid(moment)]), ""]


def _all_figures(moments: Sequence[Moment]) -> list[str]:
    """Every number of every row."""
    names = [field.name for field in fields(Comparison) if field.name not in ("layer", "method")]
    lines = [
        [moment.name, row.layer, row.method, *(f"{getattr(row, name):.4g}" for name in names)]
        for moment in moments
        for row in moment.rows
    ]
    return _lines([["", "layer", "method", *(name.replace("_", " ") for name in names)], *lines])


def _lines(cells: list[list[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(line)} |" for line in cells]
    return [head, f"|{'---|' * len(cells[0])}", *body]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else MISSING


def _write_tables(plan: Plan, moments: Sequence[Moment], headings: dict[str, str], out: Path) -> list[Path]:
    page = out / "fisher.md"
    text = [
        "# Fisher blocks against the exact one",
        "",
        f"`{command_line()}`",
        "",
        plan.caption(),
        "",
        *(f"- {line}" for line in LEGEND.splitlines()),
        "",
    ]
    for moment in moments:
        text += _markdown(moment, headings)
    text += ["## Every number", "", *_all_figures(moments), ""]
    page.write_text("\n".join(text), encoding="utf-8")
    return [page]


def _write_records(plan: Plan, moments: Sequence[Moment], blocks: FisherBlocks, out: Path) -> Path:
    lines = _records(plan, moments, blocks)
    path = out / FILE
    path.write_text("".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines), encoding="utf-8")
    return path


def _records(plan: Plan, moments: Sequence[Moment], blocks: FisherBlocks) -> Iterator[dict[str, Any]]:
    """A line that says what was measured, a line for each row, one of the drawn blocks, one that says that it ended."""
    settings = {"seed": plan.seed, "samples": plan.samples, "damping": plan.damping, "torch": torch.__version__}
    yield {"event": "start", "command": command_line(), "task": plan.task.name, **settings, "config": plan.task.config()}
    for moment in moments:
        for row in moment.rows:
            numbers = {name: finite(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
            yield {"event": "row", "moment": moment.name, "step": moment.step, **numbers}
    yield blocks.line()
    yield {"event": "end"}


def _blocks(plan: Plan, stop: Stop) -> FisherBlocks:
    """Of the drawn layer, as they are at the end."""
    outputs = stop.curvature.layers[DRAWN].outputs
    exact = weights_only(stop.curvature.fisher(DRAWN), outputs)
    approximations = {name: approximate(stop.curvature, DRAWN, name, Damping(plan.damping)) for name in IN_FIG_5}
    dense = {name: weights_only(block.dense(), outputs) for name, block in approximations.items()}
    title = f"Fisher block of the first {stop.headings()[DRAWN]} layer, weights only, after {stop.step} steps of LNGD"
    return FisherBlocks.of(title, exact, dense, outputs)


def draw_blocks(number: str, blocks: FisherBlocks, out: Path) -> Path:
    """The paper's Fig. 1 or 5."""
    path, dense = out / f"fig{number}.png", blocks.dense()
    if number == "1":
        draw_enlarged(blocks.exact, dense["LNGD"], outputs=blocks.outputs, title=blocks.title, path=path)
    else:
        draw_side_by_side(blocks.exact, dense, title=blocks.title, path=path)
    return path


def _draw_training(plan: Plan, moments: Sequence[Moment], stop: Stop, out: Path) -> Path:
    """All metrics over the training."""
    path = out / "fisher-training.png"
    draw_training(moments, stop.headings(), title=f"Blocks against the exact one, {plan.task.title}", path=path)
    return path
