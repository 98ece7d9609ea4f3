"""ImageNet (ILSVRC 2012), which its makers give to those who register, and small data sets written as ImageNet is kept.

The small ones take the way through the loader that ImageNet takes.
"""

import os
from collections.abc import Callable
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.image_folder import (
    EVALUATION,
    LAYOUT,
    TRAIN,
    ImageFolder,
    Parts,
    is_image_folder,
    open_image_folder,
    write_image_folder,
)
from lngd_bench.tasks.datasets.places import DataSet, cached, places

CLASSES = 1000
SIZE = 224
MOST_WORKERS = 16
IMAGENET = DataSet(
    name="imagenet",
    title="1,281,167 + 50,000 photographs",
    license="non-commercial",
    command=f"register at image-net.org, get ILSVRC 2012, unpack each class into a folder of its own; {LAYOUT}",
    is_in=is_image_folder,
)


def load_imagenet(data_dir: Path | None = None) -> ImageFolder:
    """Raises BenchError, which says what to put where, if there is none or it has other classes."""
    found = IMAGENET.found(data_dir)
    folder = open_image_folder(found, SIZE, min(MOST_WORKERS, os.cpu_count() or 1))
    if len(folder.classes) != CLASSES:
        raise BenchError(f"{found} has {len(folder.classes)} classes, ImageNet has {CLASSES}")
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
