"""MNIST-5k, a perceptron: the least that is still a real image task."""

from functools import partial

from lngd_bench.tasks.datasets.small_images import load_mnist_split
from lngd_bench.tasks.models.mlp import mlp
from lngd_bench.tasks.task import Task

TASK = Task(
    name="mnist-mlp",
    title="MLP 784-128-64-10 on 4,000 MNIST digits",
    metric="accuracy",
    epochs=10,
    batch_size=64,
    samples=4000,
    model=partial(mlp, 784, 128, 64, 10),
    data=load_mnist_split,
    step_seconds=0.0015,
    # lngd tune mnist-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1
    # and the family, with the same options (docs/results/family/tuning)
    rates={
        "sgd": 0.05,
        "adamw": 0.0028,
        "muon": 0.005,
        "kfac": 0.4,
        "ekfac": 0.025,
        "tkfac": 0.05,
        "ngplus": 0.12,
        "thor": 0.8,
        "lngd-sample": 0.037,
    },
    note="1,000 evaluation images",
)
