"""The data sets, by the name that `lngd data` knows them by: a new one is a file and a row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lngd_bench.tasks.datasets import cifar10, ende, imagenet, python_source, small_images, wmt
from lngd_bench.tasks.datasets.download import Progress
from lngd_bench.tasks.datasets.fashion import FASHION
from lngd_bench.tasks.datasets.mnist import MNIST


class Fetch(Protocol):
    """Downloads into a directory, from another address than the usual where one is given; yields each file in its place."""

    def __call__(self, url: str | None, into: Path | None, progress: Progress) -> Iterator[Path]: ...


@dataclass(frozen=True)
class DataSet:
    """One data set: where this machine has it (None: nowhere), the command that gets it, and what that command runs."""

    title: str
    license: str
    where: Callable[[Path | None], str | None]
    command: str
    fetch: Fetch | None = None


DATASETS: Mapping[str, DataSet] = {
    "digits": DataSet("1,797 images 8×8", "BSD", small_images.digits_place, small_images.INSTALL),
    "mnist-5k": DataSet("5,000 MNIST digits 28×28", "BSD package", small_images.mnist_place, small_images.INSTALL),
    "mnist": DataSet("60,000 + 10,000 digits 28×28", "CC BY-SA 3.0", MNIST.place, MNIST.install, MNIST.fetch),
    "fashion-mnist": DataSet("60,000 + 10,000 images 28×28", "MIT", FASHION.place, FASHION.install, FASHION.fetch),
    "cifar-10": DataSet("50,000 + 10,000 images 32×32", "none stated", cifar10.place, cifar10.INSTALL, cifar10.fetch),
    "imagenet": DataSet("1,281,167 + 50,000 photographs", "non-commercial", imagenet.place, imagenet.HOW),
    "ende": DataSet("34,702 pairs of LibreOffice's help texts", "MPL-2.0", ende.place, ende.COMMAND),
    "wmt-ende": DataSet("WMT English–German", "see statmt.org", wmt.place, wmt.HOW),
    "python-source": DataSet("4 MB of the standard library", "PSF", python_source.place, "comes with Python"),
}
