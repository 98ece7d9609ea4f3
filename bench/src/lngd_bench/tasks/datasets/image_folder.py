"""A folder for each class, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`: how ImageNet is kept, and any images can be.

Small data sets are written as such folders and take the way that ImageNet takes.

Worker processes decode ahead; what a batch holds does not depend on how many there are. A worker makes whole batches from
jobs: rows and a seed. The jobs follow from the position alone, and a second copy of the position runs ahead of the batches
that are handed out: what was loaded and not taken is forgotten.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lngd_bench.clock import CPU
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batch, Batches, Data, Split, check_enough, full_batches, held_out_size
from lngd_bench.tasks.datasets.places import DataSet, cached, places
from lngd_bench.tasks.image_transform import DRAWS, View, decoded, evaluation_view, normalised, training_view

TRAIN, EVALUATION = "train", "val"
SUFFIXES = (".jpeg", ".jpg", ".png")  # in either case
LAYOUT = "expected are train/<class>/*.JPEG and val/<class>/*.JPEG (.jpg and .png too), the same classes in both"
ORDER_SEED = 0  # of the one order whose first samples are a task's
QUALITY = 95  # of JPEG files that are written
IMAGENET_CLASSES = 1000
IMAGENET_SIZE = 224
MOST_WORKERS = 16

Job = tuple[list[int], int]
"""Rows of a batch and the seed of its draws."""
Parts = Mapping[str, tuple[Tensor, Tensor]]
"""Bytes `[n, h, w]` or `[n, h, w, 3]` and labels `[n]` of each part."""


@dataclass(frozen=True)
class Files:
    """Image files and their labels.

    Attributes:
        names: relative to the root, an array of bytes: the reference counts of a million objects would copy their memory
            into every worker.
    """

    root: Path
    names: np.ndarray
    labels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[row]))

    def chosen(self, rows: slice | Tensor) -> "Files":
        return Files(self.root, self.names[rows.numpy() if isinstance(rows, Tensor) else rows], self.labels[rows])


@dataclass(frozen=True)
class Pictures(Dataset[Tensor | BenchError]):
    """What a worker does."""

    files: Files
    size: int
    view: View

    def __getitem__(self, job: Job) -> Tensor | BenchError:
        """Bytes `[n, h, w, 3]`, or the error: one that is raised in a worker arrives wrapped into its traceback."""
        rows, seed = job
        draws = torch.rand(len(rows), DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
        try:
            views = [self.view(decoded(self.files.path(row)), self.size, own) for row, own in zip(rows, draws, strict=True)]
        except BenchError as error:
            return error
        return torch.stack([torch.from_numpy(np.array(view)) for view in views])


@dataclass(frozen=True)
class ImageFolder(Data):
    """Data from files: the training files in an order that mixes the classes.

    Attributes:
        size: pixels of a side of what the network sees.
        workers: processes that load.
    """

    train: Files
    evaluated: Files
    classes: tuple[str, ...]
    size: int
    workers: int = 0
    device: torch.device = CPU

    def to(self, device: torch.device) -> Self:
        return replace(self, device=device)

    def first(self, samples: int) -> Self:
        """Raises BenchError where the folder has fewer."""
        check_enough(samples, len(self.train))
        return replace(self, train=self.train.chosen(slice(samples)))

    def held_out(self) -> Self:
        """The last tenth of the training samples evaluates, seen as evaluation samples are."""
        kept = len(self.train) - held_out_size(len(self.train), len(self.evaluated))
        return replace(self, train=self.train.chosen(slice(kept)), evaluated=self.train.chosen(slice(kept, None)))

    def batches(self, size: int, generator: torch.Generator) -> "LoadedBatches":
        return LoadedBatches(self, size, generator)

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        return full_batches(len(self.train), size, generator)

    def batch(self, rows: Tensor, seed: int) -> Batch:
        """The job and the labels."""
        return (rows.tolist(), seed), self.train.labels[rows]

    def chunks(self, size: int) -> Iterator[Batch]:
        parts = torch.arange(len(self.evaluated)).split(size)
        images = self.load(self.evaluated, evaluation_view, [(rows.tolist(), 0) for rows in parts])
        for rows, batch in zip(parts, images, strict=True):
            yield batch, self.evaluated.labels[rows].to(self.device)

    def load(self, files: Files, view: View, jobs: Iterable[Job]) -> Iterator[Tensor]:
        """Raises BenchError, which names the file, at the batch that can't be read."""
        loader = DataLoader(
            Pictures(files, self.size, view),
            batch_size=None,
            sampler=jobs,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its draw would otherwise come from the run's random state
        )
        for loaded in loader:
            if isinstance(loaded, BenchError):
                raise loaded
            yield normalised(loaded.to(self.device, non_blocking=True))


class LoadedBatches(Batches):
    """Training batches; the position is that of the last batch taken, however many more are loaded."""

    def __init__(self, folder: ImageFolder, size: int, generator: torch.Generator) -> None:
        super().__init__(folder, size, generator)
        self.folder = folder
        self._images: Iterator[Tensor] | None = None

    def __next__(self) -> Batch:
        if self._images is None:
            ahead = Batches(self.folder, self.size, torch.Generator())
            ahead.load_state_dict(self.state_dict())
            self._images = self.folder.load(self.folder.train, training_view, (job for job, _ in ahead))
        images = next(self._images)
        return images, super().__next__()[1].to(self.folder.device, non_blocking=True)

    def close(self) -> None:
        """Ends the workers."""
        self._images = None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        super().load_state_dict(state)


def is_image_folder(root: Path) -> bool:
    return (root / TRAIN).is_dir() and (root / EVALUATION).is_dir()


IMAGENET = DataSet(
    name="imagenet",
    title="1,281,167 + 50,000 photographs",
    license="non-commercial",
    command=f"register at image-net.org, get ILSVRC 2012, unpack each class into a folder of its own; {LAYOUT}",
    is_in=is_image_folder,
)


def open_image_folder(root: Path, size: int, workers: int = 0) -> ImageFolder:
    """Lists the files and reads none of them; raises BenchError where the layout is another one."""
    train, evaluated = (_listed(root / part) for part in (TRAIN, EVALUATION))
    if different := sorted(train.keys() ^ evaluated.keys()):
        raise BenchError(f"{root}: {TRAIN} or {EVALUATION} lacks the class {different[0]}; {LAYOUT}")
    training, evaluation = _files(root / TRAIN, train), _files(root / EVALUATION, evaluated)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(ORDER_SEED))
    return ImageFolder(training.chosen(order), evaluation, tuple(train), size, workers)


def _listed(part: Path) -> dict[str, list[str]]:
    """The images of each class, both sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(part) if entry.is_dir() and not entry.name.startswith("."))
        listed = {name: sorted(e.name for e in os.scandir(part / name) if _is_image(e.name)) for name in names}
    except OSError as error:
        raise BenchError(f"{error.filename}: {error.strerror}; {LAYOUT}") from error
    if not listed:
        raise BenchError(f"{part} holds no class folders; {LAYOUT}")
    if empty := [name for name, images in listed.items() if not images]:
        raise BenchError(f"{part / empty[0]} holds no image ({', '.join(SUFFIXES)})")
    return listed


def _is_image(name: str) -> bool:
    """A copy from a Mac has a companion `._NAME` beside each file that is none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _files(part: Path, listed: Mapping[str, Sequence[str]]) -> Files:
    names = [os.fsencode(f"{name}/{file}") for name, files in listed.items() for file in files]
    counts = torch.tensor([len(files) for files in listed.values()])
    return Files(part, np.array(names), torch.arange(len(listed)).repeat_interleave(counts))


def write_image_folder(root: Path, parts: Parts, kind: str = "JPEG") -> None:
    """A folder for each class, named by its label; the root has its name only when it is whole."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as unfinished:
            whole = Path(unfinished) / root.name
            for part, (images, labels) in parts.items():
                for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                    path = whole / part / str(label) / f"{number:06d}.{kind.lower()}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image.numpy()).save(path, kind, quality=QUALITY, subsampling=0)
            if not is_image_folder(root):  # another process may have been faster; its folder is the same
                whole.rename(root)
    except OSError as error:
        raise BenchError(f"{root} can't be written: {error}") from error


def load_imagenet(data_dir: Path | None = None) -> ImageFolder:
    """Raises BenchError, which says what to put where, if there is none or it has other classes."""
    found = IMAGENET.found(data_dir)
    folder = open_image_folder(found, IMAGENET_SIZE, min(MOST_WORKERS, os.cpu_count() or 1))
    if len(folder.classes) != IMAGENET_CLASSES:
        raise BenchError(f"{found} has {len(folder.classes)} classes, ImageNet has {IMAGENET_CLASSES}")
    return folder


def as_parts(split: Split) -> Parts:
    """Of images `[n, 1, h, w]`: their darkest pixel becomes 0, their brightest 255."""
    low, high = split.train_x.min(), split.train_x.max()
    train, test = (
        ((images.squeeze(1) - low) / (high - low) * 255).round().clamp(0, 255).byte() for images in (split.train_x, split.test_x)
    )
    return {TRAIN: (train, split.train_y), EVALUATION: (test, split.test_y)}


def written_once(folder: str, make: Callable[[], Split], data_dir: Path | None) -> Path:
    """Where the images are; they are written where they are missing."""
    candidates = [path for path in places(folder, data_dir) if path.name == folder]
    found = next((path for path in candidates if is_image_folder(path)), None)
    if found is None:
        found = next((path for path in candidates if os.access(path.parent, os.W_OK)), cached(folder))
        write_image_folder(found, as_parts(make()))
    return found
