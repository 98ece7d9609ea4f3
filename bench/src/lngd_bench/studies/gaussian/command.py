"""`lngd gaussian`: the paper's Fig. 6 on a task of the benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import names_listed, tasks_named
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.gaussian.drawing import draw
from lngd_bench.studies.gaussian.outputs import layers_of, lines_of, observe
from lngd_bench.studies.results import MISSING, leave, text
from lngd_bench.tasks.data import in_memory
from lngd_bench.tasks.scoring import EVALUATION_CHUNK
from lngd_bench.training.machine import header
from lngd_bench.training.race import rate_of
from lngd_bench.training.train import Run, RunSpec

STUDY = "gaussian"
SAMPLE = ("layer", "stage", "sample", "skew", "ex.kurt.", "KS", "KS > 0", "zeros %", "p")
COORDINATES = ("layer", "stage", "coordinates", "constant", "KS", "< 0.05 %", "KS > 0", "< 0.05 %")


def gaussian(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where gaussian.md, .png and .jsonl.gz go.")] = Path("runs/gaussian"),
    task: Annotated[str, typer.Option(metavar="TASK", help="A task of lngd race.")] = "fashion-resnet",
    steps: Annotated[int, typer.Option(min=1, help="Training steps with LNGD before the layers are looked at.")] = 300,
    layers: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Layers by module name, else those at one and two thirds of the depth.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
) -> None:
    """Draw the paper's Fig. 6: are the outputs of layers Gaussian over the samples?"""
    if threads:
        torch.set_num_threads(threads)
    chosen = replace(tasks_named([task])[0], steps=steps)
    spec = RunSpec(chosen, "lngd", rate_of(chosen, "lngd"), seed)
    split = in_memory(spec.task.data(data_dir)).first(spec.task.samples)
    modules = layers_of(spec.task.model())
    every = list(modules)
    thirds = [every[len(every) // 3], every[2 * len(every) // 3]]
    names = names_listed("layer", ",".join(thirds) if layers is None else layers, modules)
    make_directory(out)
    run = Run(spec, split)
    while not run.over:
        if (row := run.epoch()).diverged:
            raise BenchError(f"the training diverged: {row.reason}; try another --seed")
    inputs = [x for x, _ in split.chunks(EVALUATION_CHUNK)]
    start = asdict(header(spec, torch.device("cpu"), command_line()))
    lines = [{"event": "start", **start, "accuracy": run.learner.score().accuracy}]
    for name in names:
        try:
            for stage, values in observe(run.learner.model, inputs, name).items():
                lines += lines_of(name, stage, values)
        except ValueError as error:
            raise BenchError(f"layer {name}: {error}") from error
    tables = shown(lines)
    console.print(tables, markup=False, soft_wrap=True)
    console.print(leave(out, STUDY, {f"{STUDY}.jsonl": lines}, page(lines), draw(lines)), soft_wrap=True, markup=False)


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """The numbers with their origin, of a record."""
    start = lines[0]
    return (
        f"`{start['command']}`, {start['date'][:10]}, torch {start['torch']}.\n\n"
        "# Are the outputs of layers Gaussian?\n\n"
        f"![Histograms of layers and the distances of all their coordinates]({STUDY}.png)\n\n"
        f"```\n{shown(lines)}\n```\n\n"
        "KS: the Kolmogorov–Smirnov distance to the normal with the samples' mean and deviation. KS > 0: of the values above 0\n"
        "to the normal that, cut off at 0, has their share of zeros and their mean. p: of D'Agostino's and Pearson's test. The\n"
        "second table has medians over all coordinates that are not constant, and the share of them below 0.05.\n"
    )


def shown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Two tables: a row for each histogram, and a row for all coordinates of a layer and stage, not one that was picked."""
    start, *rest = lines
    samples = [line for line in rest if line["event"] == "sample"]
    title = (
        f"{start['config']['title']}, LNGD, {start['config']['total_steps']} steps, "
        f"evaluation accuracy {100 * start['accuracy']:.1f} %; {samples[0]['n']} samples"
    )
    first = text(SAMPLE, [[line["layer"], line["stage"], *_sample(line)] for line in samples], words=3)
    second = text(COORDINATES, [[line["layer"], line["stage"], *_all(line)] for line in rest if line not in samples], words=2)
    return f"{title}\n\n{first}\n\n{second}"


def _sample(line: Mapping[str, Any]) -> Iterable[str]:
    yield line["quantity"]
    for name, shape in (("skewness", ".2f"), ("excess_kurtosis", ".2f"), ("distance", ".3f"), ("rectified_distance", ".3f")):
        yield _text(line[name], shape)
    yield f"{100 * line['zeros']:.1f}"
    p = line["p_value"]
    yield "< 1e-99" if p is not None and p < 1e-99 else _text(p, ".1e")


def _all(line: Mapping[str, Any]) -> Iterable[str]:
    yield from (str(line["count"]), str(line["count"] - line["normal"]["known"]))
    for part in (line["normal"], line["rectified"]):
        yield _text(part["median"], ".3f")
        yield _text(None if part["close"] is None else 100 * part["close"], ".1f")


def _text(value: float | None, shape: str) -> str:
    return MISSING if value is None else format(value, shape)
