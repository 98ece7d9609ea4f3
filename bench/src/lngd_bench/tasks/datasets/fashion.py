"""Fashion-MNIST: 60,000 + 10,000 images of clothes."""

from pathlib import Path

from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.idx_images import IdxImages

PACKAGE = "apt-get install dataset-fashion-mnist"
FASHION = IdxImages(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    hashes={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    install=f"{PACKAGE}, or lngd data fetch fashion-mnist",
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    package=PACKAGE,
)


def load_fashion_split(data_dir: Path | None = None) -> Split:
    """All 60,000 training and 10,000 evaluation images `[n, 1, 28, 28]`; raises BenchError where they are missing or damaged."""
    return FASHION.load(data_dir)
