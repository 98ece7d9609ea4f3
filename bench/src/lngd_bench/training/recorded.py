"""A run whose epochs are on the disk when they are reported: a kill at any moment costs the epoch under way, no more.

Two files belong to a run under way: its record, `*.jsonl.partial`, which grows by a line an epoch, and its checkpoint, which
is replaced every epoch (`durable.replace`: a kill leaves the old or the new one, whole). Each step below is on the disk
before the next begins:

- To start a run: remove the checkpoint, empty the record, write its header.
- After an epoch: add its line to the record, then replace the checkpoint.
- After the last one: add its line and the end line, give the record its name, then remove the checkpoint.
- To go on: cut the record to the epochs that the checkpoint knows, restore the run, and add lines again.

So the record always holds at least the epochs of the checkpoint beside it, and the checkpoint is never of another run. What a
kill leaves, whichever two steps it comes between, is one of these:

- No checkpoint: the first epoch was under way; the run starts from scratch.
- A record with as many epochs as the checkpoint: the run goes on.
- A record with more (the next line, whole or torn, or the end line): what the checkpoint does not know is cut off and run
  again. Cutting happens in place: a kill in it leaves the longer or the shorter record, and either is a case of this list.
- A record with its name and a checkpoint: the run is finished, `discard_leftovers` removes the checkpoint.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lngd_bench import durable
from lngd_bench.tasks.data import Data
from lngd_bench.training.checkpoint import MALFORMED, Checkpoint, UnusableCheckpointError, checkpoint_of, different, load, save
from lngd_bench.training.records import Beginning, Epoch, Header, RecordWriter, partial_of, read_beginning
from lngd_bench.training.train import Run, RunSpec


class RecordedRun:
    """A run, its record and its checkpoint."""

    def __init__(self, run: Run, writer: RecordWriter) -> None:
        self.run, self.writer = run, writer
        self.checkpoint = checkpoint_of(writer.path)

    def epoch(self) -> Epoch:
        """The next one, which no kill can take back."""
        row = self.run.epoch()
        self.writer.epoch(row)
        if self.run.over:
            self.writer.end()
            durable.remove(self.checkpoint)
        else:
            save(Checkpoint(self.writer.header, self.run.state_dict()), self.checkpoint)
        return row


@contextmanager
def recorded(spec: RunSpec, data: Data, path: Path, header: Header) -> Iterator[RecordedRun]:
    """The run from where it was broken off, or from its beginning where nothing is left of it that can be gone on from.

    Args:
        path: the record's final name.
        header: of a record begun now; a record that goes on keeps its own.
    """
    durable.make_directory(path.parent)
    try:
        found = _restored(spec, data, path, header)
    except UnusableCheckpointError as error:
        warnings.warn(f"{checkpoint_of(path)}: {error}; this run starts from scratch", stacklevel=2)
        found = None
    if found is None:
        discard_leftovers(path)
    run, writer = found or (Run(spec, data), RecordWriter(path, header))
    with writer:
        yield RecordedRun(run, writer)


def discard_leftovers(path: Path) -> None:
    """Removes the checkpoint beside a record, if there is one."""
    durable.remove(checkpoint_of(path))


def _restored(spec: RunSpec, data: Data, path: Path, header: Header) -> tuple[Run, RecordWriter] | None:
    """None where no epoch was finished.

    Raises:
        UnusableCheckpointError: there is a checkpoint, but this run can't go on from it.
    """
    checkpoint = load(checkpoint_of(path))
    if checkpoint is None:
        return None
    beginning = read_beginning(partial_of(path))
    if beginning is None or beginning.header != checkpoint.header:
        raise UnusableCheckpointError(f"{partial_of(path).name} is not its record")
    if difference := different(beginning.header, header):
        raise UnusableCheckpointError(difference)
    run = _loaded(checkpoint, spec, data)
    return run, RecordWriter(path, beginning.header, _kept(beginning, run))


def _loaded(checkpoint: Checkpoint, spec: RunSpec, data: Data) -> Run:
    run = Run(spec, data)
    try:
        run.load_state_dict(checkpoint.run)
    except MALFORMED as error:
        raise UnusableCheckpointError(f"it does not fit this version of lngd ({type(error).__name__})") from error
    return run


def _kept(beginning: Beginning, run: Run) -> int:
    """Bytes of the record up to the last epoch that the checkpoint knows."""
    if run.over or run.epochs_done >= len(beginning.ends):
        raise UnusableCheckpointError(f"it knows {run.epochs_done} epochs, its record {len(beginning.epochs)}")
    return beginning.ends[run.epochs_done]
