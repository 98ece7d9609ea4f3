"""`run.md`, for people: what ran in a directory, how far each run is, what each file is, how to go on and where to look.

Everything in it is read from the directory's records, so it is right whoever wrote it last; it is replaced as a whole.
"""

import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import lngd
from lngd_bench import durable
from lngd_bench.report import grid
from lngd_bench.report.tables import MISSING, clock_text, conditions_of
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.collected import check
from lngd_bench.training.event_logs import DIRECTORY
from lngd_bench.training.machine import header
from lngd_bench.training.race import Place
from lngd_bench.training.records import Beginning, Header, Record, read_run
from lngd_bench.training.train import RunSpec

NAME = "run.md"
FILES: Mapping[str, str] = {
    "*.jsonl": "the record of a finished run: a line of JSON that says what ran, one an epoch, one that it has ended",
    "*.jsonl.partial": "the record of an unfinished run, without the last line",
    "*.checkpoint": "what an unfinished run goes on from; it goes when the run has ended",
    "table.md": "the tables, with targets and remarks",
    "*.png": "the figure of a task: training loss and metric against epochs and seconds",
    "report.html": "tables to sort and charts to ask, for any browser, without a network",
    DIRECTORY: "the same figures for TensorBoard: a directory a run",
    NAME: "this page",
}
HEADINGS = ("task", "optimizer", "rate", "damping", "seed", "state", "train loss", "metric")


@dataclass(frozen=True)
class Line:
    """A run in the table.

    Attributes:
        kind: `over`, `unfinished` with something recorded, `waiting`, or `foreign`: no run's at all.
        header: unless nothing is recorded.
    """

    cells: tuple[str, ...]
    kind: str
    header: Header | None = None


class Notes:
    """The page of a directory, written again whenever asked.

    Args:
        specs: what the command runs; what else is recorded in the directory is listed too.
        again: the command that goes on.
    """

    def __init__(self, specs: Sequence[RunSpec], place: Place, again: str) -> None:
        self.specs = {spec.file_name: spec for spec in specs}
        self.place, self.again = place, again
        self.over: dict[str, Line] = {}

    def write(self) -> Path:
        path = self.place.out / NAME
        durable.replace(path, self.text().encode())
        return path

    def text(self) -> str:
        lines = [self._line(name) for name in self._names()]
        headers = [line.header for line in lines if line.header]
        commands = filter(None, dict.fromkeys([*(found.command for found in headers), self.place.command]))
        parts = (
            f"# Runs of {', '.join(dict.fromkeys(line.cells[0] for line in lines if line.kind != 'foreign'))}",
            "\n".join(f"    {_plain(command)}" for command in commands),
            "\n".join(f"- {fact}" for fact in (*self._state(lines), *self._conditions(headers), *self._commands(lines))),
            f"## Runs\n\n{_table(HEADINGS, [line.cells for line in lines])}",
            f"## Files\n\n{_table(('file', 'how many', 'what it is'), _files(self.place.out))}",
        )
        return "\n\n".join(filter(None, parts)) + "\n"

    def _names(self) -> list[str]:
        """Of records: the command's runs, then what else is there."""
        found = sorted({path.name.removesuffix(".partial") for path in self.place.out.glob("*.jsonl*")})
        return list(dict.fromkeys([*self.specs, *(name for name in found if name.endswith(".jsonl"))]))

    def _line(self, name: str) -> Line:
        """A run that is over is read once."""
        if name in self.over:
            return self.over[name]
        line = _line_of(self.place.out / name, self.specs.get(name))
        if line.kind == "over":
            self.over[name] = line
        return line

    def _state(self, lines: Sequence[Line]) -> Iterator[str]:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        begun = min((line.header.date[:16].replace("T", " ") for line in lines if line.header), default=None)
        yield f"Begun {_plain(begun)}, as of {now} (UTC)" if begun else f"Nothing has run yet, as of {now} (UTC)"
        counts = Counter(line.kind for line in lines)
        runs = len(lines) - counts["foreign"]
        yield f"{counts['over']} of {runs} runs are over, {counts['unfinished']} unfinished, {counts['waiting']} waiting"

    def _conditions(self, headers: Sequence[Header]) -> Iterator[str]:
        """Of the runs; this process's before the first."""
        ran = headers or [header(next(iter(self.specs.values())), self.place.device, self.place.command)]
        for machine, device, threads, clock in dict.fromkeys(map(conditions_of, ran)):
            yield _plain(f"{machine}, {device}, {threads} thread{'s' * (threads != 1)}; seconds are {clock_text(clock)}")
        torches = ", ".join(dict.fromkeys(found.torch for found in ran))
        yield _plain(f"torch {torches}, Python {platform.python_version()}, lngd {lngd.__version__}")

    def _commands(self, lines: Sequence[Line]) -> Iterator[str]:
        out, logs = self.place.out, self.place.out / DIRECTORY
        if any(line.kind in ("unfinished", "waiting") for line in lines):
            yield f"Go on after the last finished epoch of each run: `{_plain(self.again)}`"
        if (out / "report.html").exists():
            yield "See the report: open `report.html` in a browser"
        yield f"Tables of the runs that are over: `lngd table {_quoted(out)}`; figures and page: `lngd figure {_quoted(out)}`"
        if logs.exists():
            yield f"Every epoch, of unfinished runs too: `tensorboard --logdir {_quoted(logs)}`"


def _line_of(path: Path, spec: RunSpec | None) -> Line:
    """`spec` where the run is the command's own, of which nothing need be recorded yet."""
    run = _recorded(path)
    if run:
        kind = "over" if isinstance(run, Record) else "unfinished"
        return Line((*_who(run.header), _said(run), *_figures(run)), kind, run.header)
    if spec:
        return Line((*_who(spec, spec.task.name), "waiting", MISSING, MISSING), "waiting")
    return Line((path.name, *[MISSING] * 4, "not a readable record", MISSING, MISSING), "foreign")


def _recorded(path: Path) -> Record | Beginning | None:
    """None too where it is no run's."""
    run = read_run(path)
    try:
        if run:
            check(run)
    except (ValueError, KeyError):
        return None
    return run


def _who(run: RunSpec | Header, task: str | None = None) -> tuple[str, ...]:
    damping = MISSING if run.damping is None else f"{run.damping:g}"
    return str(task or run.task), run.optimizer, f"{run.lr:g}", damping, str(run.seed)


def _said(run: Record | Beginning) -> str:
    config, done = run.header.config, len(run.epochs)
    if isinstance(run, Beginning):
        return f"unfinished, {done} of {-(-config['total_steps'] // max(1, config['steps_an_epoch']))} epochs"
    return f"diverged in epoch {done}: {run.epochs[-1].reason}" if run.diverged else "finished"


def _figures(run: Record | Beginning) -> tuple[str, str]:
    """Of the last epoch that has them."""
    name = run.header.config["metric"]
    losses = [epoch.train_loss for epoch in run.epochs if epoch.train_loss is not None]
    metrics = [epoch.metric for epoch in run.epochs if epoch.metric is not None]
    loss = f"{losses[-1]:.4f}" if losses else MISSING
    return loss, f"{name} {METRICS[name].text(metrics[-1])}" if metrics else MISSING


def _files(out: Path) -> Iterator[tuple[str, str, str]]:
    for pattern, meaning in FILES.items():
        number = len(list(out.glob(pattern))) if pattern != NAME else 1
        if number:
            yield f"`{pattern}`", str(number), meaning


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return grid.markdown([headings, *([_plain(cell) for cell in row] for row in rows)], numbers=False)


def _plain(text: str) -> str:
    """In one line and one cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
