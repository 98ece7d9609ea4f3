"""How far a race is: a bar on a terminal, a line for each epoch of a task elsewhere, and one for each run that ends everywhere.

A thread draws the bar twice a second; a step only leaves its number here, since its seconds are measured.
"""

from collections.abc import Iterable, Mapping, Sequence

from rich import progress
from rich.console import Console, RenderableType

from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.race import estimated_seconds, step_seconds
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import RunSpec

REFRESHES = 2  # a second
REMEMBERED = 500.0  # seconds, from which the time that is left is told: an epoch of one competitor is dearer than another's


class Progress(progress.Progress):
    """A race's display, told its steps and epochs; the bar counts the seconds that tables give a step of each optimizer.

    Args:
        done: steps of runs that go on, by file name.
    """

    def __init__(self, specs: Sequence[RunSpec], console: Console, done: Mapping[str, int]) -> None:
        self.done = {spec.file_name: done.get(spec.file_name, 0) for spec in specs}
        self.specs, self.said = specs, "loading data"
        self.begun: set[tuple[str, int]] = set()
        """Tasks and their epochs that a line has told."""
        super().__init__(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and specs),
            refresh_per_second=REFRESHES,
            speed_estimate_period=REMEMBERED,
            transient=True,
            expand=True,
        )
        self.add_task(self.said, total=estimated_seconds(specs), completed=round(self._seconds_done()))

    def step(self, spec: RunSpec, steps: int) -> None:
        """After each step of a run."""
        self.done[spec.file_name] = steps

    def epoch(self, spec: RunSpec, epoch: Epoch) -> None:
        """After each epoch; a run that ends leaves a line."""
        self.said = f"{spec.optimizer} {spec.lr:g} seed {spec.seed}, epoch {epoch.epoch}/{spec.task.total_epochs}"
        if self.disable and (told := (spec.task.name, epoch.epoch)) not in self.begun:
            self.begun.add(told)
            self.console.print(f"{spec.task.name}  epoch {epoch.epoch}/{spec.task.total_epochs}", markup=False)
        if not spec.ended_by(epoch):
            return
        self.done[spec.file_name] = spec.task.total_steps
        self.console.print(ended(spec, epoch), markup=False, soft_wrap=not self.console.is_terminal)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Asked by the drawing thread."""
        for bar in self.task_ids:
            self.update(bar, completed=self._seconds_done(), description=self.said)
        yield from super().get_renderables()

    def _seconds_done(self) -> float:
        return sum(self.done[spec.file_name] * step_seconds(spec) for spec in self.specs)


def ended(spec: RunSpec, epoch: Epoch) -> str:
    """The line that a run leaves."""
    who = f"{spec.task.name}  {spec.optimizer} {spec.lr:g}  seed {spec.seed}"
    if epoch.metric is None or epoch.train_loss is None:
        return f"{who}  diverged: {epoch.reason}"
    return f"{who}  train loss {epoch.train_loss:.4f}  {spec.task.metric} {METRICS[spec.task.metric].text(epoch.metric)}"
