"""TensorBoard's event files, made from records only: a log says what the record of its run says, no more and nothing twice.

A log is begun anew when a run goes on. TensorBoard can drop points from a step on (`purge_step`), but what it drops stays in
the files, and other readers of them see it.
"""

from collections.abc import Iterable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.training.records import Epoch, Record, read_run
from lngd_bench.training.train import RunSpec

DIRECTORY = "tensorboard"
SCALARS = ("train_loss", "eval_loss", "seconds", "largest_norm")
"""Of an epoch; the metric has its own name."""


def check_installed() -> None:
    """Raises BenchError, with the command that cures it, where TensorBoard is missing."""
    if not find_spec("tensorboard"):
        raise BenchError("--tensorboard needs tensorboard: pip install tensorboard, or pip install 'lngd-bench[tensorboard]'")


class EventLogs:
    """The logs of a directory of records, those of runs under way open."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.open: dict[str, EventLog] = {}

    def finished(self, specs: Iterable[RunSpec]) -> None:
        """The logs of runs that need no more epochs."""
        for spec in specs:
            if record := read_run(self.out / spec.file_name):
                EventLog(self._directory(spec), record).close()

    def epoch(self, spec: RunSpec, epoch: Epoch) -> None:
        """One that is in the record already."""
        name = spec.file_name
        if name in self.open:
            self.open[name].add(epoch)
        elif record := read_run(self.out / name):
            self.open[name] = EventLog(self._directory(spec), record)
        if spec.ended_by(epoch):
            self.open.pop(name).close()

    def close(self) -> None:
        while self.open:
            self.open.popitem()[1].close()

    def _directory(self, spec: RunSpec) -> Path:
        return self.out / DIRECTORY / Path(spec.file_name).stem


class EventLog:
    """A log begun anew. The time of a point is the run's date plus its seconds of training, which TensorBoard can plot."""

    def __init__(self, directory: Path, record: Record) -> None:
        """TensorBoard is imported here: it takes a second, and few want it."""
        from torch.utils.tensorboard import SummaryWriter

        for former in directory.glob("events.out.tfevents.*"):
            former.unlink()
        self.metric = record.header.config["metric"]
        self.time = datetime.fromisoformat(record.header.date).timestamp()
        self.writer = SummaryWriter(str(directory))
        for epoch in record.epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """What is not finite has no point."""
        self.time += epoch.seconds
        values = {name: getattr(epoch, name) for name in SCALARS} | {self.metric: epoch.metric}
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, epoch.step, walltime=self.time)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
