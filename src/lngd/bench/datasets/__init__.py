"""The data sets, by the name that `lngd data` knows them by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lngd.bench.datasets import ende, fashion, python_source, small_images, wmt


@dataclass(frozen=True)
class DataSet:
    """One data set: where this machine has it (None: nowhere) and the command that gets it."""

    title: str
    license: str
    where: Callable[[Path | None], str | None]
    command: str


DATASETS: Mapping[str, DataSet] = {
    "digits": DataSet("1,797 images 8×8", "BSD", small_images.digits_place, small_images.INSTALL),
    "mnist-5k": DataSet("5,000 MNIST digits 28×28", "BSD package", small_images.mnist_place, small_images.INSTALL),
    "fashion-mnist": DataSet("60,000 + 10,000 images 28×28", "MIT", fashion.place, fashion.INSTALL),
    "ende": DataSet("34,000 pairs of LibreOffice's help texts", "MPL-2.0", ende.place, ende.COMMAND),
    "wmt-ende": DataSet("WMT English–German", "see statmt.org", wmt.place, wmt.HOW),
    "python-source": DataSet("4 MB of the standard library", "PSF", python_source.place, "comes with Python"),
}
