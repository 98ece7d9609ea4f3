"""Fashion-MNIST, a perceptron."""

from functools import partial

from lngd_bench.tasks.datasets.fashion import load_fashion_split
from lngd_bench.tasks.models.mlp import mlp
from lngd_bench.tasks.task import Task

TASK = Task(
    name="fashion-mlp",
    title="MLP 784-256-256-128-10 on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=partial(mlp, 784, 256, 256, 128, 10),
    data=load_fashion_split,
    step_seconds=0.004,
    # lngd tune fashion-mlp --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    rates={"sgd": 0.14, "adamw": 0.004, "muon": 0.0025},
    note="10,000 evaluation images",
)
