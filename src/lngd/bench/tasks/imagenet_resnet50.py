"""The paper's Figs. 3 and 7 and Tables 2 and 5: ResNet-50 on a folder of JPEG files, each method's own schedule and length."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lngd.bench.datasets.fashion import FASHION
from lngd.bench.datasets.image_folder import ImageFolder, read_folder
from lngd.bench.datasets.imagenet import load_imagenet
from lngd.bench.datasets.picture_files import written_once
from lngd.bench.datasets.places import cached
from lngd.bench.datasets.small_images import load_digit_bytes
from lngd.bench.execution import Execution
from lngd.bench.models.resnet50 import ResNet50
from lngd.bench.schedule import PaperCosine, Polynomial, Schedule, Warmed
from lngd.bench.task import Scale, Task

FIRST_ORDER, SECOND_ORDER = 80, 50  # epochs, appendix E.2
WARMUP = 5  # epochs, of SGD, Adam and K-FAC
POWER = 4  # E, of which the paper says that it is one of 2 … 6
WORKERS = 8
HERE_SAMPLES, HERE_EVALUATIONS = 6400, 1000
HERE_EPOCHS = {"first": 8, "second": 5}
NEWTON = ("kfac", "ekfac", "tkfac", "ngplus", "thor", "lngd-lr", "lngd-sample", "lngd", "lngd-spectral", "lngd-paper")


def _warmed(then: Schedule, epochs: int) -> Schedule:
    """The paper's formulas count from the first epoch on, so they run on beneath the warm-up."""
    return Warmed(then, WARMUP / epochs, restarts=False)


SCHEDULES: Mapping[str, Schedule] = {
    "sgd": _warmed(PaperCosine(), FIRST_ORDER),
    "adamw": _warmed(Polynomial(POWER), FIRST_ORDER),
    "kfac": _warmed(Polynomial(POWER), SECOND_ORDER),
}


def _imagenet(data_dir: Path | None) -> ImageFolder:
    return load_imagenet(data_dir, 224, min(WORKERS, os.cpu_count() or 1))


def _fashion(data_dir: Path | None) -> ImageFolder:
    """Written as files at the first call."""
    (train_x, train_y), (test_x, test_y) = FASHION.pixels(data_dir)
    train, test = (train_x[:HERE_SAMPLES], train_y[:HERE_SAMPLES]), (test_x[:HERE_EVALUATIONS], test_y[:HERE_EVALUATIONS])
    return read_folder(written_once(_folder("fashion-jpegs", data_dir), train, test), 32)


def _digits(data_dir: Path | None) -> ImageFolder:
    images, labels = load_digit_bytes()
    folder = _folder("digit-jpegs", data_dir)
    return read_folder(written_once(folder, (images[:96], labels[:96]), (images[96:128], labels[96:128])), 32)


def _folder(name: str, data_dir: Path | None) -> Path:
    return data_dir / name if data_dir else cached(name)


FULL = Task(
    name="imagenet-resnet50",
    title="ResNet-50 on ImageNet-1k",
    scale="full",
    metric="accuracy",
    epochs=FIRST_ORDER,
    budgets=dict.fromkeys(NEWTON, SECOND_ORDER),
    batch_size=256,
    samples=1281167,
    model=ResNet50,
    data=_imagenet,
    step_seconds=120.0,
    schedule=Polynomial(POWER),
    schedules=SCHEDULES,
    execution=Execution(precision="bfloat16", channels_last=True),
    weight_decay=0.004,
    target=0.759,
    rates={},
    note="random-resized crops of 224 pixels and flips, 50,000 evaluation images",
)
HERE = replace(
    FULL,
    title="ResNet-50 of width 8 on Fashion-MNIST as JPEG files",
    scale="here",
    epochs=HERE_EPOCHS["first"],
    budgets=dict.fromkeys(NEWTON, HERE_EPOCHS["second"]),
    epoch_steps=40,
    batch_size=64,
    samples=HERE_SAMPLES,
    model=partial(ResNet50, 8, classes=10),
    data=_fashion,
    step_seconds=0.3,
    execution=Execution(),
    target=None,
    note=f"random-resized crops of 32 pixels and flips, an epoch is 40 steps, {HERE_EVALUATIONS:,} evaluation images",
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
    data=_digits,
    step_seconds=0.1,
    note="random-resized crops of 32 pixels and flips, 32 evaluation images",
)
SCALES: Mapping[Scale, Task] = {"full": FULL, "here": HERE, "tiny": TINY}
TASK = HERE
