"""How far a race is: two lines that stay in place on a terminal, a line for each run that ends everywhere.

The lines are drawn by a thread of their own, twice a second; a step only leaves its number here. Both are in the seconds that
are measured: 0.3 µs a step, and 0.6 to 1.8 ms for lines about 4 to 200 runs, on a busy two-core machine.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lngd_bench.report.tables import metric_text
from lngd_bench.training.pace import Pace
from lngd_bench.training.race import step_seconds
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import RunSpec

REFRESHES = 2  # a second
SHORTEST_BAR = 10  # columns
UNLIMITED = 10_000  # columns of a file


@dataclass
class Turn:
    """A run's epoch under way, from the end of its first step on: before that it may have waited for data."""

    spec: RunSpec
    first: int
    steps: int
    begun: float

    @property
    def seen(self) -> tuple[RunSpec, int, float]:
        return self.spec, self.steps - self.first, time.monotonic() - self.begun


class Progress:
    """A race's display, told its steps and epochs.

    Args:
        done: steps of runs that go on, by file name.
    """

    def __init__(self, specs: Sequence[RunSpec], console: Console, done: dict[str, int]) -> None:
        self.specs, self.console = specs, console
        self.done = {spec.file_name: done.get(spec.file_name, 0) for spec in specs}
        self.metrics: dict[str, float | None] = {}
        self.pace = Pace()
        self.turn: Turn | None = None
        self.latest: RunSpec | None = None
        self.begun = time.monotonic()
        self.live = Live(
            get_renderable=self.lines, console=console, refresh_per_second=REFRESHES, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal and self.specs:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def step(self, spec: RunSpec, steps: int) -> None:
        """After each step of a run."""
        if self.turn is None:
            self.turn = Turn(spec, steps, steps, time.monotonic())
        self.turn.steps = steps

    def epoch(self, spec: RunSpec, epoch: Epoch) -> None:
        """After each epoch; a run that ends leaves a line."""
        if self.turn:
            self.pace.saw(*self.turn.seen)
        self.turn = None
        self.latest = spec
        self.metrics[spec.file_name] = epoch.metric
        self.done[spec.file_name] = spec.task.total_steps if spec.ended_by(epoch) else epoch.step
        if spec.ended_by(epoch):
            width = self.console.width if self.console.is_terminal else UNLIMITED
            self.console.print(ended(spec, epoch, width), markup=False, soft_wrap=True)

    def lines(self) -> Group:
        """The whole race, then the run that has its turn; each fits into a line."""
        turn, done = self.turn, dict(self.done)
        if turn:
            done[turn.spec.file_name] = turn.steps
        pace = self.pace.also(*turn.seen) if turn else self.pace
        left = [(spec, spec.task.total_steps - done[spec.file_name]) for spec in self.specs]
        whole = estimated((spec, spec.task.total_steps) for spec in self.specs)
        share = 1 - estimated(left) / whole if whole else 1.0
        elapsed, remaining = clock_text(time.monotonic() - self.begun), clock_text(pace.remaining(left))
        text = f" {100 * share:.0f} %  {elapsed} gone, {remaining} left"
        shown = turn.spec if turn else self.latest
        state = (
            status(shown, done[shown.file_name], self.metrics.get(shown.file_name), self.console.width)
            if shown
            else "loading data"
        )
        return Group(bar(share, text, self.console.width), Text(state, no_wrap=True, overflow="ellipsis"))


def estimated(steps: Iterable[tuple[RunSpec, int]]) -> float:
    """Seconds by the tables, which the bar goes by: it must not go back when the pace changes."""
    return sum(number * step_seconds(spec) for spec, number in steps)


def bar(share: float, text: str, width: int) -> Table:
    """What the text leaves of the width is the bar's, if that is enough for one."""
    line = Table.grid()
    room = width - len(text)
    cells = [ProgressBar(total=1.0, completed=share, width=room)] if room >= SHORTEST_BAR else []
    line.add_row(*cells, Text(text, no_wrap=True, overflow="ellipsis"))
    return line


def status(spec: RunSpec, steps: int, metric: float | None, width: int) -> str:
    """As much about a run as fits: task, optimizer, rate, seed, epoch and step in it, metric of the last epoch."""
    task = spec.task
    an_epoch = task.steps_an_epoch
    number = min(task.total_epochs, steps // an_epoch + 1)
    inside = steps - (number - 1) * an_epoch
    last = min(an_epoch, task.total_steps - (number - 1) * an_epoch)
    run = f"{spec.optimizer} {spec.lr:g} seed {spec.seed}"
    epoch, step = f"epoch {number}/{task.total_epochs}", f"step {inside}/{last}"
    value = "" if metric is None else metric_text(metric, task.metric)
    forms = (
        (task.name, run, epoch, step, value and f"{task.metric} {value}"),
        (task.name, run, epoch, step, value),
        (task.name, run, epoch, value),
        (run, epoch, value),
        (spec.optimizer, epoch, value),
        (epoch,),
    )
    return fitting(forms, width)


def fitting(forms: Sequence[Sequence[str]], width: int) -> str:
    """The first that fits, or the start of the last; empty words are left out."""
    texts = ["  ".join(filter(None, form)) for form in forms]
    return next((text for text in texts if len(text) <= width), f"{texts[-1][: width - 1]}…")


def clock_text(seconds: float) -> str:
    """`1:05`, `2:01:05`, from a hundred hours on `5 days`."""
    whole = round(seconds)
    if whole >= 360_000:
        return f"{whole / 86_400:.0f} days"
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02}" if hours else f"{rest // 60}"
    return f"{hours}:{minutes}:{rest % 60:02}" if hours else f"{minutes}:{rest % 60:02}"


def ended(spec: RunSpec, epoch: Epoch, width: int) -> str:
    """The line that a run leaves."""
    who = (spec.task.name, f"{spec.optimizer} {spec.lr:g}", f"seed {spec.seed}")
    if epoch.metric is None or epoch.train_loss is None:
        return fitting([(*who, f"diverged: {epoch.reason}"), (" ".join(who), f"diverged: {epoch.reason}")], width)
    loss, value = f"{epoch.train_loss:.4f}", metric_text(epoch.metric, spec.task.metric)
    forms = (
        (*who, f"train loss {loss}", f"{spec.task.metric} {value}"),
        (" ".join(who), f"loss {loss}", value),
        (" ".join(who[1:]), f"loss {loss}", value),
        (who[1], value),
    )
    return fitting(forms, width)
