"""Labelled images written as a folder of image files: small data sets take the way through the loader that ImageNet takes."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.image_folder import EVALUATION, TRAIN, is_image_folder
from lngd_bench.tasks.datasets.places import cached, first_that, places

Labelled = tuple[Tensor, Tensor]
"""Bytes `[n, h, w]` or `[n, h, w, 3]` and labels `[n]`."""
Parts = Mapping[str, Labelled]
QUALITY = 95


def as_parts(split: Split) -> Parts:
    """Of images `[n, 1, h, w]`: their darkest pixel becomes 0, their brightest 255."""
    low, high = split.train_x.min(), split.train_x.max()

    def pixels(images: Tensor) -> Tensor:
        return ((images.squeeze(1) - low) / (high - low) * 255).round().clamp(0, 255).byte()

    return {TRAIN: (pixels(split.train_x), split.train_y), EVALUATION: (pixels(split.test_x), split.test_y)}


def write_image_folder(root: Path, parts: Parts, kind: Literal["JPEG", "PNG"] = "JPEG") -> None:
    """A folder for each class, named by its label; the root has its name only when it is whole.

    Raises:
        BenchError: the directory can't be written.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as unfinished:
            whole = Path(unfinished) / root.name
            for part, labelled in parts.items():
                _write_part(whole / part, labelled, kind)
            _rename(whole, root)
    except OSError as error:
        raise BenchError(f"{root} can't be written: {error}") from error


def written_once(folder: str, make: Callable[[], Parts], data_dir: Path | None) -> Path:
    """Where the images are; they are written where they are missing."""
    candidates = [path for path in places(folder, data_dir) if path.name == folder]
    found = first_that(is_image_folder, candidates)
    if found is None:
        found = first_that(lambda path: os.access(path.parent, os.W_OK), candidates) or cached(folder)
        write_image_folder(found, make())
    return found


def _write_part(folder: Path, labelled: Labelled, kind: str) -> None:
    images, labels = labelled
    for label in labels.unique().tolist():
        (folder / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        picture = Image.fromarray(image.numpy())
        picture.save(folder / str(label) / f"{number:06d}.{kind.lower()}", kind, quality=QUALITY, subsampling=0)


def _rename(whole: Path, root: Path) -> None:
    """Another process may have been faster; its folder is the same."""
    try:
        whole.rename(root)
    except OSError:
        if not is_image_folder(root):
            raise
