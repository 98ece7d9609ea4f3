"""ImageNet-1k in class folders, found where the user put it: only its makers give it away."""

from pathlib import Path

from lngd.bench.datasets.image_folder import ImageFolder, is_folder, read_folder
from lngd.bench.datasets.places import first_that, listed, places
from lngd.bench.errors import BenchError

NAME = "imagenet"
HOW = "get ILSVRC 2012 from image-net.org, then put train/CLASS/*.JPEG and val/CLASS/*.JPEG there"


def load_imagenet(data_dir: Path | None, size: int, workers: int) -> ImageFolder:
    """Raises BenchError, which says what to put where, if there is none."""
    found = place(data_dir)
    if found is None:
        raise BenchError(f"ImageNet is in none of {listed(places(NAME, data_dir))}: {HOW}")
    return read_folder(Path(found), size, workers)


def place(data_dir: Path | None = None) -> str | None:
    """The directory it would be read from."""
    found = first_that(is_folder, places(NAME, data_dir))
    return str(found) if found else None
