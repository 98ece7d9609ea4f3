"""`lngd overhead`: what a step of each method costs in time and memory beside SGD's, measured and on paper."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from lngd_bench.cli.names import names_listed
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.asdl import takes
from lngd_bench.studies.overhead.machine import Machine, calibrated
from lngd_bench.studies.overhead.overhead import ASDL, DEFAULT_METHODS, METHODS
from lngd_bench.studies.overhead.prediction import predict
from lngd_bench.studies.overhead.records import Found, append, found_events, pages, started
from lngd_bench.studies.overhead.run import Plan, run
from lngd_bench.studies.overhead.show import show, show_predictions
from lngd_bench.studies.overhead.workloads import NETWORKS, Workload

CUSTOMARY = ",".join(name for name in DEFAULT_METHODS if name in METHODS)


def overhead(
    *,
    models: Annotated[str, typer.Option("--models", "--model", metavar="NAME,…", help=f"Of {', '.join(NETWORKS)}.")] = "resnet18",
    batch: Annotated[str, typer.Option(metavar="N,…", help="Samples a step. [default: each model's own]")] = "",
    methods: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(METHODS)}.")] = CUSTOMARY,
    rounds: Annotated[int, typer.Option(min=1, help="Curvature intervals of each method.")] = 2,
    width: Annotated[int | None, typer.Option(min=1, help="Of the model. [default: that of the real one]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    peak: Annotated[bool, typer.Option(help="Peak memory too, of a process for each method.")] = True,
    predict_only: Annotated[bool, typer.Option("--predict", help="On paper only, without training.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Print the tables of an earlier run again.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where records, tables and chart go; they add up.")] = Path(
        "runs/overhead"
    ),
) -> None:
    """Time whole curvature intervals of each method beside SGD steps, weigh what it keeps, and show where the time goes."""
    if report is not None:
        show(pages(report), report)
        return
    torch.set_num_threads(threads)
    workloads = _workloads(names_listed("model", models, NETWORKS), batch, width)
    plan = Plan(names_listed("method", methods, dict.fromkeys(METHODS)), rounds, peak)
    console.print("calibrating …", markup=False)
    machine = calibrated()
    console.print(str(machine), markup=False)
    if predict_only:
        show_predictions({workload.title: predict(workload, plan.methods, machine) for workload in workloads})
        return
    make_directory(out)
    for workload in workloads:
        _measure(plan, workload, machine, out / workload.file_name)
    show(pages(out), out)


def _workloads(names: list[str], batch: str, width: int | None) -> list[Workload]:
    return [Workload(name, width or NETWORKS[name].width, size) for name in names for size in _batches(name, batch)]


def _batches(name: str, listed: str) -> Iterator[int]:
    if not listed.strip():
        yield from NETWORKS[name].batches
        return
    for word in listed.split(","):
        if not word.strip().isdecimal() or int(word) < 2:
            raise BenchError(f"--batch {listed}: give sizes of 2 and more, such as 32,128")
        yield int(word)


def _measure(plan: Plan, workload: Workload, machine: Machine, path: Path) -> None:
    """One model and batch, into its file."""
    if ASDL in plan.methods and not takes(workload.model(), len(workload.network.inputs(2))):
        plan = replace(plan, methods=[name for name in plan.methods if name != ASDL])
        console.print(f"{workload.title}: {ASDL} takes no grouped convolutions and one input only; it is left out", markup=False)
    console.print(f"{workload.title}: {', '.join(plan.methods)}; {plan.rounds} rounds", markup=False)
    append(path, started(workload, plan.rounds, command_line()) | {"calibration": asdict(machine)})
    predictions = predict(workload, plan.methods, machine)
    for found in run(plan, workload):
        if found.method in predictions:
            found.predicted = predictions[found.method].ratio
        append(path, found_events(found))
        console.print(_said(found), markup=False)


def _said(found: Found) -> str:
    return f"  {found.method}: {', '.join(f'{interval.ratio:.2f}' for interval in found.intervals)} × SGD"
