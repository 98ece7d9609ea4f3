"""A run whose epochs are kept as they end: a kill at any moment costs the epoch under way, no more.

Beside the record of a run under way lies its checkpoint, which is replaced as a whole after every epoch. It holds the state of
the run and all that has been recorded of it, so it alone decides where the run goes on; the record is then written again.
A record with its name and a checkpoint is of a run that was killed in between: it is finished.
"""

import io
import struct
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from pickle import UnpicklingError  # the error only, which torch.load raises; nothing here unpickles by itself

import torch

from lngd_bench import archive
from lngd_bench.tasks.data import Data
from lngd_bench.training import records
from lngd_bench.training.records import Epoch, Header
from lngd_bench.training.train import Run, RunSpec

MALFORMED = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(EOFError, struct.error, UnpicklingError),
)
"""What torch raises over content that it did not write, found with random changes of a file."""
MAY_DIFFER = {"date", "command"}  # between a run and its continuation


class RecordedRun:
    """A run with its record and its checkpoint; it goes on where it was broken off.

    Where its checkpoint can't be used, one warning says why and the run starts from scratch.

    Args:
        path: the record's final name.
        header: of a record begun now; a record that goes on keeps its own.
    """

    def __init__(self, spec: RunSpec, data: Data, path: Path, header: Header) -> None:
        self.run, self.path, self.header = Run(spec, data), path, header
        self.epochs: list[Epoch] = []
        if checkpoint_of(path).exists():
            try:
                self._restore()
            except MALFORMED as error:
                reason = str(error).partition("\n")[0] or type(error).__name__
                warnings.warn(f"{checkpoint_of(path)} can't be used ({reason}); this run starts from scratch", stacklevel=2)
                self.run, self.header, self.epochs = Run(spec, data), header, []
                discard_checkpoint(path)
        records.begin(path, self.header, self.epochs)

    def epoch(self) -> Epoch:
        """The next one, which no kill can take back."""
        row = self.run.epoch()
        self.epochs.append(row)
        records.add(self.path, row)
        if self.run.over:
            records.end(self.path)
            discard_checkpoint(self.path)
        else:
            self._save()
        return row

    def _save(self) -> None:
        epochs = [asdict(epoch) for epoch in self.epochs]
        buffer = io.BytesIO()
        torch.save({"header": asdict(self.header), "epochs": epochs, "run": self.run.state_dict()}, buffer)
        archive.put(checkpoint_of(self.path), buffer.getvalue())

    def _restore(self) -> None:
        """Nothing but tensors, numbers, strings and plain containers is unpickled.

        Raises:
            One of MALFORMED: the file is damaged, of another version, or of a run that need not go on bit-equal here.
        """
        found = torch.load(io.BytesIO(checkpoint_of(self.path).read_bytes()), map_location="cpu", weights_only=True)
        former = Header(**found["header"])
        for name in (field.name for field in fields(Header) if field.name not in MAY_DIFFER):
            before, now = getattr(former, name), getattr(self.header, name)
            if before != now:
                raise ValueError(f"it was made with {name} {before}, now it is {now}")
        self.epochs = [Epoch(**epoch) for epoch in found["epochs"]]
        self.run.load_state_dict(found["run"])
        self.header = former


def checkpoint_of(record: Path) -> Path:
    """Not `*.jsonl*`, which are records."""
    return record.with_suffix(".checkpoint")


def discard_checkpoint(record: Path) -> None:
    """With what a kill has left of the next one."""
    for path in record.parent.glob(f"{checkpoint_of(record).name}*"):
        path.unlink()
