"""`lngd overhead`: what the curvature of each method costs in time and memory."""

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
import typer
from rich.console import Console

from lngd.bench.machine import processor
from lngd.bench.optimizers import OPTIMIZERS
from lngd.bench.overhead import METHODS, MODELS, Footprint, Kind, Timing, Workload, measure
from lngd.cli.names import lookup, names_listed
from lngd.cli.plain_table import plain_table
from lngd.cli.running import command_line, console, make_directory

WIDTH = 100
MISSING = "–"
KINDS: tuple[Kind, ...] = ("ordinary", "measuring", "refresh")
HEADINGS = ("method", "step\nms", "ratio", "measure\nms", "ratio", "refresh\nms", "ratio", "back-\nward", "MiB", "max.\nMiB")
MIB = 2**20


def overhead(
    *,
    methods: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(METHODS)}.")] = ",".join(METHODS),
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "resnet18",
    width: Annotated[int | None, typer.Option(min=1, help="Channels of the first stage. [the model's own: 64, 16]")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Samples a step.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each kind.")] = 3,
    against: Annotated[str, typer.Option(help="The method whose steps the ratios are of.")] = "sgd",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where overhead.md and overhead.jsonl go.")] = Path("runs/overhead"),
) -> None:
    """Time the steps of each method beside those of SGD or another, and weigh what it keeps."""
    names = names_listed("method", methods, valid := dict.fromkeys(METHODS))
    lookup("method", against, valid)
    network = lookup("model", model, MODELS)
    torch.set_num_threads(threads)
    workload = Workload(network, width or network.width, batch)
    title = f"{model}, {workload.width} channels in the first stage, batch {batch}, beside {OPTIMIZERS[against].title}"
    make_directory(out)
    console.print(f"{title}: {len(names)} methods, {rounds} rounds", markup=False)
    found: list[Timing | Footprint] = []
    with _recorded(out / "overhead.jsonl", _start(title, rounds)) as file:
        for line in measure(names, workload, rounds, against):
            found.append(line)
            _record(line, file)
    table = plain_table(HEADINGS, [_row(name, found, spread=KINDS[:2]) for name in names], words=1)
    Console(width=WIDTH, highlight=False).print("", table, "")
    rows = [_row(name, found, spread=KINDS) for name in names]
    (out / "overhead.md").write_text(f"{_caption(title, rounds)}\n\n{_markdown(rows)}", encoding="utf-8")
    console.print(f"Written: {out / 'overhead.md'}, {out / 'overhead.jsonl'}", soft_wrap=True, markup=False)


def _start(title: str, rounds: int) -> dict[str, Any]:
    return {
        "event": "start",
        "title": title,
        "rounds": rounds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": processor(torch.device("cpu")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
    }


@contextmanager
def _recorded(path: Path, start: dict[str, Any]) -> Iterator[TextIO]:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")
        yield file


def _record(line: Timing | Footprint, file: TextIO) -> None:
    """On disk at once, and each method's name on the screen: the whole takes minutes."""
    event = "timing" if isinstance(line, Timing) else "footprint"
    file.write(json.dumps({"event": event, **asdict(line)}) + "\n")
    file.flush()
    if isinstance(line, Footprint):
        console.print(f"{line.method} …", markup=False)


def _row(method: str, found: Sequence[Timing | Footprint], *, spread: Sequence[Kind]) -> list[str]:
    """`spread`: the kinds whose ratio comes with its least and largest; the terminal has no room for all."""
    of_kind = {kind: [t for t in found if isinstance(t, Timing) and (t.method, t.kind) == (method, kind)] for kind in KINDS}
    times = [cell for kind in KINDS for cell in (_median(of_kind[kind]), _ratio(of_kind[kind], spread=kind in spread))]
    kept = next(line for line in found if isinstance(line, Footprint) and line.method == method)
    return [OPTIMIZERS[method].title, *times, str(kept.backward_passes), _mib(kept.state_bytes), _mib(kept.largest_bytes)]


def _median(timings: list[Timing]) -> str:
    if not timings:
        return MISSING
    return _number(statistics.median(t.milliseconds for t in timings))


def _ratio(timings: list[Timing], *, spread: bool) -> str:
    """The median, with `spread` also least and largest; a single one stands alone."""
    if not timings:
        return MISSING
    ratios = sorted(t.ratio for t in timings)
    median, least, largest = map(_number, (statistics.median(ratios), ratios[0], ratios[-1]))
    return f"{median} ({least}–{largest})" if spread and len(ratios) > 1 else median


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}" if size else MISSING


def _markdown(rows: list[list[str]]) -> str:
    headings = [heading.replace("-\n", "").replace("\n", " ") for heading in HEADINGS]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _caption(title: str, rounds: int) -> str:
    threads = torch.get_num_threads()
    return (
        f"{title}; {rounds} round{'s' * (rounds != 1)}. {processor(torch.device('cpu'))}, "
        f"{threads} thread{'s' * (threads != 1)}, {'CPU' if threads == 1 else 'wall'} time, torch {torch.__version__}."
    )
