"""MNIST, all of it: 60,000 + 10,000 digits. MNIST-5k, which comes inside a Python package, is in `small_images`."""

from pathlib import Path

from torch import Tensor
from torch.nn import functional

from lngd_bench.tasks.data import Split, standardised
from lngd_bench.tasks.datasets.idx_images import IdxImages

MNIST = IdxImages(
    title="MNIST",
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    hashes={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    install="lngd data fetch mnist",
)


def load_whole_mnist14_split(data_dir: Path | None = None) -> Split:
    """All of MNIST with squares of 2×2 pixels averaged, `[n, 1, 14, 14]`; raises BenchError where it is missing or damaged."""
    (train_x, train_y), (test_x, test_y) = MNIST.pixels(data_dir)
    train_x, test_x = halved(train_x.float()), halved(test_x.float())
    return Split(standardised(train_x, train_x), train_y, standardised(test_x, train_x), test_y)


def halved(images: Tensor) -> Tensor:
    """Squares of 2×2 pixels averaged; exact for pixels that were bytes."""
    return functional.avg_pool2d(images, 2)
