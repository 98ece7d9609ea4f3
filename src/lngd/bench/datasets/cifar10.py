"""CIFAR-10 in its binary distribution: records of a label byte and 3,072 pixel bytes, red, green and blue planes of 32×32."""

from pathlib import Path

from lngd.bench.data import Split


def load_cifar10_split(data_dir: Path | None = None) -> Split:
    raise NotImplementedError
