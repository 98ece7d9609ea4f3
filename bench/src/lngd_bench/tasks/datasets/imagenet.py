"""ImageNet (ILSVRC 2012), which its makers give to those who register; found where the user put it."""

import os
from functools import partial
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.image_folder import LAYOUT, ImageFolder, is_image_folder, open_image_folder
from lngd_bench.tasks.datasets.places import listed, place_of, places
from lngd_bench.tasks.image_loading import Loading

NAME = "imagenet"
CLASSES = 1000
SIZE = 224
MOST_WORKERS = 16
HOW = "register at image-net.org, get ILSVRC 2012, unpack each class into a folder of its own"


def load_imagenet(data_dir: Path | None = None) -> ImageFolder:
    """Raises BenchError, which says what to put where, if there is none or it has other classes."""
    found = place(data_dir)
    if found is None:
        raise BenchError(f"ImageNet is in none of {listed(places(NAME, data_dir))}: {HOW}; {LAYOUT}")
    folder = open_image_folder(Path(found), Loading(SIZE, min(MOST_WORKERS, os.cpu_count() or 1)))
    if len(folder.classes) != CLASSES:
        raise BenchError(f"{found} has {len(folder.classes)} classes, ImageNet has {CLASSES}")
    return folder


place = partial(place_of, NAME, is_image_folder)
