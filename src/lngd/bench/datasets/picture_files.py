"""Images that lie in memory, written as a folder of JPEG files: real files for the loader of ImageNet where ImageNet is not."""

import shutil
from pathlib import Path

from PIL import Image
from torch import Tensor

from lngd.bench.datasets.image_folder import is_folder

QUALITY = 95
PARTS = ("train", "val")


def written_once(directory: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Path:
    """`[n, 1, h, w]` bytes and labels, as `train/3/00017.jpg`; what is there already is left alone.

    The folder takes its name when it is whole.
    """
    if is_folder(directory):
        return directory
    unfinished = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, (images, labels) in zip(PARTS, (train, test), strict=True):
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = unfinished / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:05}.jpg", quality=QUALITY)
    unfinished.rename(directory)
    return directory
