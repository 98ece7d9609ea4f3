"""TensorBoard's event files, made from records only: a log says what the record of its run says, no more and nothing twice.

A log is begun anew when a run goes on. TensorBoard can drop points from a step on (`purge_step`), but what it drops stays in
the files, and other readers of them see it.
"""

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lngd_bench.errors import BenchError
from lngd_bench.training.records import Epoch, Record, read_run
from lngd_bench.training.train import RunSpec

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

DIRECTORY = "tensorboard"
SCALARS = ("train_loss", "eval_loss", "seconds", "largest_norm")
"""Of an epoch; the metric has its own name."""


def check_installed() -> None:
    """Raises BenchError, with the command that cures it, where TensorBoard is missing."""
    if not find_spec("tensorboard"):
        raise BenchError("--tensorboard needs tensorboard: pip install tensorboard, or pip install 'lngd-bench[tensorboard]'")


class EventLogs:
    """The logs of a directory of records, each with the run's date plus its seconds of training as the time of a point."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.open: dict[str, SummaryWriter] = {}
        self.times: dict[str, float] = {}

    def finished(self, spec: RunSpec) -> None:
        """The log of a run that needs no more epochs."""
        self._begin(spec)
        self.open.pop(spec.file_name).close()

    def epoch(self, spec: RunSpec, epoch: Epoch) -> None:
        """One that is in the record already."""
        if spec.file_name in self.open:
            self._add(spec, epoch)
        else:
            self._begin(spec)
        if spec.ended_by(epoch):
            self.open.pop(spec.file_name).close()

    def close(self) -> None:
        while self.open:
            self.open.popitem()[1].close()

    def _begin(self, spec: RunSpec) -> None:
        """TensorBoard is imported here: it takes a second, and few want it."""
        from torch.utils.tensorboard import SummaryWriter

        record = read_run(self.out / spec.file_name)
        assert isinstance(record, Record)
        directory = self.out / DIRECTORY / Path(spec.file_name).stem
        for former in directory.glob("events.out.tfevents.*"):
            former.unlink()
        self.open[spec.file_name] = SummaryWriter(str(directory))
        self.times[spec.file_name] = datetime.fromisoformat(record.header.date).timestamp()
        for epoch in record.epochs:
            self._add(spec, epoch)

    def _add(self, spec: RunSpec, epoch: Epoch) -> None:
        """What is not finite has no point."""
        self.times[spec.file_name] += epoch.seconds
        values = {name: getattr(epoch, name) for name in SCALARS} | {spec.task.metric: epoch.metric}
        for name, value in values.items():
            if value is not None:
                self.open[spec.file_name].add_scalar(name, value, epoch.step, walltime=self.times[spec.file_name])
        self.open[spec.file_name].flush()
