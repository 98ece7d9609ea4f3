"""MNIST-5k, a plain convolutional network."""

from functools import partial

from lngd_bench.tasks.datasets.small_images import load_mnist_split
from lngd_bench.tasks.models.cnn import cnn
from lngd_bench.tasks.task import Task

TASK = Task(
    name="mnist-cnn",
    title="CNN without normalisation on 4,000 MNIST digits",
    metric="accuracy",
    epochs=8,
    batch_size=64,
    samples=4000,
    model=partial(cnn, (8, 16, 32)),
    data=load_mnist_split,
    step_seconds=0.012,
    # lngd tune mnist-cnn --optimizers sgd,adamw,muon --trials 4 --threads 1
    # and the family, with the same options (docs/results/family/tuning)
    rates={
        "sgd": 0.1,
        "adamw": 0.004,
        "muon": 0.005,
        "kfac": 0.05,
        "ekfac": 0.1,
        "tkfac": 0.05,
        "ngplus": 0.5,
        "thor": 0.2,
        "lngd-sample": 0.42,
    },
    note="1,000 evaluation images",
)
