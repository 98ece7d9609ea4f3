"""The paper's Fig. 3 and Table 2: ResNet-50 on ImageNet; first-order methods have 80 epochs, second-order ones 50."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.image_folder import (
    IMAGENET,
    ImageFolder,
    is_image_folder,
    load_imagenet,
    open_image_folder,
    written_once,
)
from lngd_bench.tasks.datasets.mnist_family import FASHION, load_fashion_split
from lngd_bench.tasks.datasets.small_images import DIGITS, load_digits_split
from lngd_bench.tasks.execution import Execution
from lngd_bench.tasks.models.resnet import ResNet50
from lngd_bench.tasks.schedule import paper_cosine, polynomial, warmed
from lngd_bench.tasks.task import Scale, Task

EPOCHS, SECOND_ORDER_EPOCHS, WARM_UP_EPOCHS = 80, 50, 5
SHARE, SECOND_ORDER_SHARE = WARM_UP_EPOCHS / EPOCHS, WARM_UP_EPOCHS / SECOND_ORDER_EPOCHS
SECOND_ORDER = [
    "kfac",
    "kfac-scheduled",
    "ekfac",
    "tkfac",
    "ngplus",
    "thor",
    "lngd-lr",
    "lngd-sample",
    "lngd",
    "lngd-spectral",
    "lngd-paper",
]
DECAY = polynomial(4)  # of the paper's powers 2 … 6; its formulas count all epochs, so they run on beneath the warm-up
JPEGS = "fashion-jpegs-6400"  # the folder of what is written of Fashion-MNIST
SMALL = 32  # pixels a side at the smaller scales
NOTE = "random-resized crop and flip, last γ of a block from 0"


def _fashion_is_in(place: Path) -> bool:
    """The data set, or what was written of it once."""
    return FASHION.is_in(place) or any(is_image_folder(folder / JPEGS) for folder in (place, place.parent))


def _fashion(data_dir: Path | None) -> ImageFolder:
    """No workers: the clock of one CPU thread counts this process only, and decoding is part of a step."""

    def first() -> Split:
        return load_fashion_split(data_dir).first(6400).evaluated_on(1000)

    return open_image_folder(written_once(JPEGS, first, data_dir), SMALL)


def _digits(data_dir: Path | None) -> ImageFolder:
    root = written_once("digits-jpegs-96", lambda: load_digits_split().first(96).evaluated_on(32), data_dir)
    return open_image_folder(root, SMALL)


FULL = Task(
    name="imagenet-resnet50",
    title="ResNet-50 on ImageNet",
    scale="full",
    metric="accuracy",
    epochs=EPOCHS,
    budgets=dict.fromkeys(SECOND_ORDER, SECOND_ORDER_EPOCHS),
    batch_size=256,
    samples=1281167,
    model=ResNet50,
    data_set=IMAGENET,
    data=load_imagenet,
    step_seconds=180.0,
    schedule=DECAY,
    schedules={
        "sgd": warmed(paper_cosine(), SHARE, restarts=False),
        "adamw": warmed(DECAY, SHARE, restarts=False),
        "kfac": warmed(DECAY, SECOND_ORDER_SHARE, restarts=False),
    },
    execution=Execution(precision="bfloat16", channels_last=True),
    interval=500,
    weight_decay=0.004,
    target=0.759,
    rates={},
    note=f"{NOTE}, 50,000 evaluation images",
)
HERE = replace(
    FULL,
    title="ResNet-50 of width 32 on Fashion-MNIST as JPEG files",
    scale="here",
    epochs=EPOCHS // 10,
    budgets=dict.fromkeys(SECOND_ORDER, SECOND_ORDER_EPOCHS // 10),
    epoch_steps=40,
    batch_size=64,
    samples=6400,
    model=partial(ResNet50, 32, classes=10),
    data_set=replace(FASHION, is_in=_fashion_is_in),
    data=_fashion,
    step_seconds=0.33,
    interval=None,
    execution=Execution(),
    target=None,
    # lngd tune imagenet-resnet50 --optimizers sgd,adamw,kfac,lngd-lr,lngd-sample,lngd,lngd-spectral --trials 3 --rounds 1
    # --steps 80 --epoch-steps 40 --threads 1: 5 trials each. AdamW's and LNGD-sample's best is the highest of its grid. K-FAC
    # with a scheduled radius has K-FAC's rate.
    rates={"sgd": 0.14, "adamw": 0.016, "kfac": 0.05, "kfac-scheduled": 0.05}
    | {"lngd-lr": 0.25, "lngd-sample": 0.8, "lngd": 0.25, "lngd-spectral": 0.04},
    note=f"{NOTE}, an epoch is 40 steps, 1,000 evaluation images",
)
TINY = replace(
    HERE,
    title="ResNet-50 of width 4 on digits as JPEG files",
    scale="tiny",
    epochs=2,
    budgets={},
    epoch_steps=3,
    batch_size=16,
    samples=96,
    model=partial(ResNet50, 4, classes=10),
    data_set=DIGITS,
    data=_digits,
    step_seconds=0.1,
    rates={},
    note=f"{NOTE}, an epoch is 3 steps, 32 evaluation images",
)
SCALES: Mapping[Scale, Task] = {"full": FULL, "here": HERE, "tiny": TINY}
