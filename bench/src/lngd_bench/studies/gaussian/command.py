"""`lngd gaussian`: the paper's Fig. 6 on a task of the benchmark."""

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from lngd_bench.cli import options
from lngd_bench.cli.names import names_listed, tasks_named
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.report.tables import plain_table
from lngd_bench.studies.gaussian import records as gaussian_records
from lngd_bench.studies.gaussian.drawing import draw, pictured
from lngd_bench.studies.gaussian.figure import Sample, Stage, layers_of, observe
from lngd_bench.studies.gaussian.records import aggregates
from lngd_bench.tasks.data import Split, in_memory
from lngd_bench.tasks.scoring import EVALUATION_CHUNK, Score
from lngd_bench.tasks.task import Changes
from lngd_bench.training.machine import header
from lngd_bench.training.race import rate_of
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.train import DivergenceError, Learner, RunSpec

WIDTH = 100
MISSING = "–"
WRITTEN = f"Where {gaussian_records.PICTURE} and {gaussian_records.FILE} go."


def gaussian(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help=WRITTEN)] = Path("runs/gaussian"),
    task: Annotated[str, typer.Option(metavar="TASK", help="A task of lngd race.")] = "fashion-resnet",
    steps: Annotated[int, typer.Option(min=1, help="Training steps with LNGD before the layers are looked at.")] = 300,
    layers: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Layers by module name. [those at one and two thirds of the depth]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
) -> None:
    """Draw the paper's Fig. 6: are the outputs of layers Gaussian over the samples?"""
    if threads:
        torch.set_num_threads(threads)
    spec = _spec(task, steps, seed)
    split = in_memory(spec.task.data(data_dir)).first(spec.task.samples)
    names = _layers_named(layers, spec)
    learner, score = _trained(spec, split)
    inputs = [x for x, _ in split.chunks(EVALUATION_CHUNK)]
    stages = [stage for name in names for stage in _observed(learner, inputs, name)]
    console.print(
        f"{spec.task.title}, LNGD, {steps} steps, evaluation accuracy {100 * score.accuracy:.1f} %; {len(split.test_x)} samples",
        markup=False,
        soft_wrap=True,
    )
    _print(_sample_table(stages))
    _print(_coordinate_table(stages))
    make_directory(out)
    pictures = [pictured(stage) for stage in stages]
    start = header(spec, torch.device("cpu"), command_line())
    records = gaussian_records.write(out / gaussian_records.FILE, start, score.accuracy, stages, pictures)
    figure = draw(pictures, out / gaussian_records.PICTURE, gaussian_records.title(start.config, len(split.test_x)))
    console.print(f"Written: {figure}, {records}", soft_wrap=True, markup=False)


def _spec(name: str, steps: int, seed: int) -> RunSpec:
    task = Changes(steps=steps).apply(tasks_named([name])[0])
    return RunSpec(task, "lngd", rate_of(task, "lngd"), seed)


def _layers_named(listed: str | None, spec: RunSpec) -> list[str]:
    modules = layers_of(spec.task.model())
    if listed is None:
        every = list(modules)
        return list(dict.fromkeys([every[len(every) // 3], every[2 * len(every) // 3]]))
    return names_listed("layer", listed, modules)


def _trained(spec: RunSpec, split: Split) -> tuple[Learner, Score]:
    with PrivateRandomness(spec.seed).active():
        learner = Learner(spec, split)
        try:
            while learner.steps_done < spec.task.total_steps:
                learner.train_epoch()
            return learner, learner.score()
        except DivergenceError as error:
            raise BenchError(f"the training diverged: {error}; try another --seed") from error


def _observed(learner: Learner, inputs: list[torch.Tensor], layer: str) -> list[Stage]:
    try:
        return observe(learner.model, inputs, layer)
    except ValueError as error:
        raise BenchError(f"layer {layer}: {error}") from error


def _sample_table(stages: list[Stage]) -> Table:
    """One row a histogram of the figure."""
    headings = ("layer", "stage", "sample", "skew", "ex.kurt.", "KS", "KS > 0", "zeros %", "p")
    rows = [[s.layer, s.stage, sample.quantity, *_sample_cells(sample)] for s in stages for sample in (s.coordinate, s.norm)]
    return plain_table(headings, rows, words=3)


def _sample_cells(sample: Sample) -> list[str]:
    fit = sample.fit
    moments = [_text(value.item(), ".2f") for value in (fit.skewness, fit.excess_kurtosis)]
    distances = [_text(value.item(), ".3f") for value in (fit.distance, fit.rectified_distance)]
    return [*moments, *distances, _text(100 * fit.zeros.item(), ".1f"), _p_text(fit.p_value.item())]


def _coordinate_table(stages: list[Stage]) -> Table:
    """One row a layer and stage, the median over every coordinate, not one that was picked."""
    headings = ("layer", "stage", "coordinates", "constant", "KS", "< 0.05 %", "KS > 0", "< 0.05 %")
    return plain_table(headings, [[s.layer, s.stage, *_coordinate_cells(s)] for s in stages], words=2)


def _coordinate_cells(stage: Stage) -> list[str]:
    normal, rectified = aggregates(stage).values()
    counts = [str(stage.every["distance"].numel()), str(stage.every["distance"].numel() - int(normal["known"]))]
    ends = [[_text(part["median"], ".3f"), _text(100 * part["close"], ".1f")] for part in (normal, rectified)]
    return [*counts, *ends[0], *ends[1]]


def _text(value: float, shape: str) -> str:
    return format(value, shape) if math.isfinite(value) else MISSING


def _p_text(value: float) -> str:
    return "< 1e-99" if value < 1e-99 else _text(value, ".1e")


def _print(table: Table) -> None:
    Console(width=WIDTH, highlight=False).print(table, "")
