"""MNIST and Fashion-MNIST, each four files in the idx format: a magic number, the sizes as big-endian 32-bit numbers, the bytes.

Both name their files alike, so a name does not tell whose it is: a directory with the other's labels is passed over.
"""

import gzip
import hashlib
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split, standardised
from lngd_bench.tasks.datasets.places import DataSet

SIDE = 28  # pixels
UNSIGNED_BYTE = 8  # the only element type of this family
TRAIN_LABELS = "train-labels-idx1-ubyte"
MNIST_HASHES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_HASHES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The unsigned bytes of an idx file, gzipped or not, in its shape; raises BenchError where it is none with so many axes."""
    content = _content(path)
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise BenchError(f"{path}: not an idx file of unsigned bytes with {axes} axes")
    try:
        return np.frombuffer(content, np.uint8, offset=start).reshape(np.frombuffer(content[4:start], ">u4"))
    except ValueError as error:
        raise BenchError(f"{path}: damaged idx file ({error}); remove it and get it again") from error


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise BenchError(f"{path}: {error}; remove it and get it again") from error


def _file(directory: Path, name: str) -> Path:
    packed = directory / f"{name}.gz"
    return packed if packed.exists() else directory / name


def _is_in(directory: Path, others_labels: str) -> bool:
    """A damaged file counts as its own: the loader says what is wrong with it."""
    if not all(_file(directory, name).exists() for name in MNIST_HASHES):
        return False
    try:
        return hashlib.sha256(_content(_file(directory, TRAIN_LABELS))).hexdigest() != others_labels
    except BenchError:
        return True


MNIST = DataSet(
    name="mnist",
    title="60,000 + 10,000 digits 28×28",
    license="CC BY-SA 3.0",
    command="lngd data fetch mnist",
    is_in=partial(_is_in, others_labels=FASHION_HASHES[TRAIN_LABELS]),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    hashes=MNIST_HASHES,
    packed=True,
)
FASHION = DataSet(
    name="fashion-mnist",
    title="60,000 + 10,000 images 28×28",
    license="MIT",
    command="apt-get install dataset-fashion-mnist, or lngd data fetch fashion-mnist",
    is_in=partial(_is_in, others_labels=MNIST_HASHES[TRAIN_LABELS]),
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    hashes=FASHION_HASHES,
    packed=True,
)


def load_fashion_split(data_dir: Path | None = None) -> Split:
    """All 60,000 training and 10,000 evaluation images `[n, 1, 28, 28]`; raises BenchError where they are missing or damaged."""
    train, test = _parts(FASHION.found(data_dir))
    return standardised_split(train, test)


def load_whole_mnist14_split(data_dir: Path | None = None) -> Split:
    """All of MNIST with squares of 2×2 pixels averaged, `[n, 1, 14, 14]`; raises BenchError where it is missing or damaged."""
    (train_x, train_y), (test_x, test_y) = _parts(MNIST.found(data_dir))
    return standardised_split((halved(train_x), train_y), (halved(test_x), test_y))


def standardised_split(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Split:
    """Images and labels of both parts, the images standardised by the training set."""
    return Split(standardised(train[0], train[0]), train[1], standardised(test[0], train[0]), test[1])


def halved(images: Tensor) -> Tensor:
    """Squares of 2×2 pixels averaged; exact for pixels that were bytes."""
    return functional.avg_pool2d(images, 2)


def _parts(directory: Path) -> list[tuple[Tensor, Tensor]]:
    found = []
    for part in ("train", "t10k"):
        path = _file(directory, f"{part}-images-idx3-ubyte")
        images, labels = read_idx(path, 3), read_idx(_file(directory, f"{part}-labels-idx1-ubyte"), 1)
        if images.shape != (len(labels), SIDE, SIDE):
            expected = f"{SIDE}×{SIDE} pixels for each of {len(labels)} labels"
            raise BenchError(f"{path}: images {images.shape}, expected are {expected}")
        found.append((torch.from_numpy(images[:, None].astype(np.float32)), torch.from_numpy(labels.astype(np.int64))))
    return found
