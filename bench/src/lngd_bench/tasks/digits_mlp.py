"""Digits, a small perceptron: a run takes a second."""

from functools import partial

from lngd_bench.tasks.datasets.small_images import load_digits_split
from lngd_bench.tasks.models.mlp import mlp
from lngd_bench.tasks.task import Task

TASK = Task(
    name="digits-mlp",
    title="MLP 64-64-64-10 on digits",
    metric="accuracy",
    epochs=15,
    batch_size=64,
    samples=1437,
    model=partial(mlp, 64, 64, 64, 10),
    data=load_digits_split,
    step_seconds=0.001,
    # lngd tune digits-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1
    rates={"sgd": 0.1, "adamw": 0.004, "muon": 0.02},
    note="360 evaluation images",
)
