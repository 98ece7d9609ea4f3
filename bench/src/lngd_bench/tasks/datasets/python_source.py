"""Characters of the standard library's own files: megabytes of real text that every machine with Python has."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.places import DataSet

CONTEXT = 128  # characters a sample
VOCABULARY = 128  # ASCII
TRAIN_CHARACTERS = 4_000_000
HELD_OUT_CHARACTERS = 200_000
HELD_OUT_EVERY = 16  # one file in so many is held out, whole: no function stands on both sides
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "encodings", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}
STDLIB = Path(sysconfig.get_path("stdlib"))
PYTHON_SOURCE = DataSet(
    name="python-source",
    title="4 MB of the standard library",
    license="PSF",
    command="comes with Python",
    is_in=STDLIB.__eq__,
    system=(STDLIB,),
)


def load_python_source(_: Path | None = None) -> Split:
    """Windows of 128 characters `[n, 128]`, targets shifted by one; 31,249 to train, 1,562 of other files to evaluate.

    The text depends on Python's version, so runs compare within one version.
    """
    files = list(_sources(STDLIB))
    held_out = files[::HELD_OUT_EVERY]
    training = [text for index, text in enumerate(files) if index % HELD_OUT_EVERY]
    return Split(*_windows(training, TRAIN_CHARACTERS), *_windows(held_out, HELD_OUT_CHARACTERS))


def _sources(root: Path) -> Iterator[bytes]:
    """The ASCII files in the order of their names; tests and tables of characters are no text to learn from."""
    for path in sorted(root.rglob("*.py")):
        content = b"" if LEFT_OUT & set(path.relative_to(root).parts) else path.read_bytes()
        if content.isascii():
            yield content


def _windows(texts: list[bytes], characters: int) -> tuple[Tensor, Tensor]:
    text = b"".join(texts)[:characters]
    if len(text) < characters:
        raise BenchError(f"the standard library holds {len(text)} of {characters} characters; install Python's full library")
    codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    windows = (len(codes) - 1) // CONTEXT
    end = windows * CONTEXT
    x, y = codes[:end].view(windows, CONTEXT), codes[1 : end + 1].view(windows, CONTEXT)
    order = torch.randperm(windows, generator=torch.Generator().manual_seed(0))
    return x[order], y[order]
