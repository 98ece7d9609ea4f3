"""The data sets, by the name that `lngd data` knows them by: a new one is a file and a row."""

from collections.abc import Mapping

from lngd_bench.tasks.datasets.cifar10 import CIFAR10
from lngd_bench.tasks.datasets.image_folder import IMAGENET
from lngd_bench.tasks.datasets.mnist_family import FASHION, MNIST
from lngd_bench.tasks.datasets.parallel_text import ENDE, WMT
from lngd_bench.tasks.datasets.places import DataSet
from lngd_bench.tasks.datasets.python_source import PYTHON_SOURCE
from lngd_bench.tasks.datasets.small_images import DIGITS, MNIST5K

_ALL = (DIGITS, MNIST5K, MNIST, FASHION, CIFAR10, IMAGENET, ENDE, WMT, PYTHON_SOURCE)
DATASETS: Mapping[str, DataSet] = {one.name: one for one in _ALL}
