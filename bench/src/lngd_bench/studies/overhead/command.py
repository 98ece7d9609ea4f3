"""`lngd overhead`: what a step of each method costs in time and memory beside SGD's, measured and on paper."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd.optimizer import NaturalGradient
from lngd_bench import archive
from lngd_bench.cli.names import device_named, names_listed
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.anatomy import breakdown, peak_bytes, state_bytes
from lngd_bench.studies.overhead.before import BEFORE, CLASSES, Checkout
from lngd_bench.studies.overhead.on_paper import Prediction, Work, calibrated, predict
from lngd_bench.studies.overhead.report import append, as_markdown, conditions, draw, pages, ratios, title
from lngd_bench.studies.overhead.timing import DEFAULT_METHODS, METHODS, Builder, Trainee, interval, trainee_of
from lngd_bench.studies.overhead.workloads import NETWORKS, Workload
from lngd_bench.studies.results import MISSING, leave, number, records_at, text
from lngd_bench.tasks.execution import Precision

STUDY = "overhead"
PAPER_STAGES = ("measure", "refresh", "precondition", "orthogonalise", "rate", "apply")


def overhead(
    *,
    models: Annotated[str, typer.Option("--models", "--model", metavar="NAME,…", help=f"Of {', '.join(NETWORKS)}.")] = "resnet18",
    batch: Annotated[str, typer.Option(metavar="N,…", help="Samples a step.", show_default="each model's own")] = "",
    methods: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(METHODS)}.")] = ",".join(DEFAULT_METHODS),
    rounds: Annotated[int, typer.Option(min=1, help="Curvature intervals of each method.")] = 2,
    width: Annotated[int | None, typer.Option(min=1, help="Of the model.", show_default="the real one's")] = None,
    before: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, help="LNGD and Spectral LNGD of another checkout, too: the folder with its lngd."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="Of autocast.")] = "float32",
    peak: Annotated[bool, typer.Option(help="Peak memory too, of a process for each method.")] = True,
    predict_only: Annotated[bool, typer.Option("--predict", help="On paper only, without training.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", exists=True, help="Measure nothing; show these records again.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where overhead.jsonl.gz, .md and .png are.")] = Path("runs/overhead"),
) -> None:
    """Time whole curvature intervals of each method beside SGD steps, weigh what it keeps, and show where the time goes."""
    if report:
        _show(records_at(report, STUDY), report if report.is_dir() else report.parent)
        return
    torch.set_num_threads(threads)
    sizes, found = _sizes(batch), device_named(device)
    workloads = [
        Workload(name, width or NETWORKS[name].width, size, device, precision)
        for name in names_listed("model", models, NETWORKS)
        for size in sizes or NETWORKS[name].batches
    ]
    names = names_listed("method", methods, dict.fromkeys(METHODS))
    console.print("calibrating …", markup=False)
    second = calibrated(device=found)
    speeds = "products {:.1f}, convolutions {:.1f}, factorisations {:.1f} Gop/s, memory {:.1f} GB/s"
    console.print(speeds.format(*(1e-9 * part for part in second)), markup=False)
    if predict_only:
        for workload in workloads:
            _show_prediction(workload.title, predict(workload, names, second))
        return
    other = None if before is None else Checkout(before)
    make_directory(out)
    records = out / f"{STUDY}{archive.ENDING}"
    for workload in workloads:
        _measure_all(workload, names, second, records, rounds=rounds, peak=peak, before=other)
    _show(records, out)


def _sizes(listed: str) -> list[int]:
    words = [word.strip() for word in listed.split(",") if listed.strip()]
    if not all(word.isdecimal() and int(word) > 1 for word in words):
        raise BenchError(f"--batch {listed}: give sizes of 2 and more, such as 32,128")
    return [int(word) for word in words]


def _measure_all(
    workload: Workload,
    methods: Sequence[str],
    second: Work,
    path: Path,
    *,
    rounds: int,
    peak: bool,
    before: Checkout | None,
) -> None:
    """Every method of one model and batch in its turn, built, timed, weighed and freed, into the archive."""
    console.print(f"{workload.title}: {', '.join(methods)}; {rounds} rounds", markup=False)
    start = {
        "event": "start",
        "workload": asdict(workload),
        "conditions": conditions(torch.device(workload.device)),
        "calibration": second._asdict(),
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    append(path, workload.file_name, {**start, "rounds": rounds, "command": command_line(), "date": date})
    predictions = predict(workload, methods, second)
    reference = trainee_of(workload, "sgd")
    reference.warm_up()
    trainees: list[tuple[str, Builder | None]] = [(method, None) for method in methods]
    if before is not None:
        trainees += [(f"{method}{BEFORE}", before.build) for method in methods if method in CLASSES]
    for method, builder in trainees:
        found = _measured(trainee_of(workload, method, builder), reference, rounds)
        gc.collect()
        found["peak_bytes"] = peak_bytes(workload, method) if peak and builder is None else None
        found["predicted"] = predictions[method].ratio if method in predictions else None
        append(path, workload.file_name, found)
        console.print(f"  {method}: {', '.join(f'{ratio:.2f}' for ratio in ratios(found))} × SGD", markup=False)


def _measured(trainee: Trainee, reference: Trainee, rounds: int) -> dict[str, Any]:
    trainee.warm_up()
    return {
        "event": "method",
        "method": trainee.method,
        "intervals": [interval(trainee, reference, number) for number in range(rounds)],
        "state_bytes": state_bytes(trainee),
        "parameters": sum(p.numel() for p in trainee.model.parameters()),
        "stages": breakdown(trainee) if isinstance(trainee.optimizer, NaturalGradient) else {},
    }


def _show(source: Path, out: Path) -> None:
    """Prints every page and writes the three files."""
    found = pages(source)
    if not found:
        raise BenchError(f"{source} has no records of lngd overhead")
    for page in found:
        _print("\n".join([f"\n{page.caption}", "\n\n".join(text(*table) for table in page.tables)]))
    _print("\n" + leave(out, STUDY, archive.read(source), as_markdown(found), draw(found)))


def _show_prediction(heading: str, found: Mapping[str, Prediction]) -> None:
    """A method a row: the ratio, SGD's step, and what each stage adds, in milliseconds."""
    headings = ("optimizer", "ratio", "network", "SGD", *PAPER_STAGES)
    rows = []
    for method, prediction in found.items():
        times = [number(prediction.stages[stage]) if stage in prediction.stages else MISSING for stage in PAPER_STAGES]
        rows.append([title(method), number(prediction.ratio), number(prediction.network), number(prediction.sgd), *times])
    _print(f"\n{heading}, on paper; milliseconds\n{text(headings, rows)}")


def _print(words: str) -> None:
    """Nothing cut where the terminal is narrow."""
    console.print(words, markup=False, soft_wrap=True)
