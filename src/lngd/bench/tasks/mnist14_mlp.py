"""MNIST-5k at 14×14 pixels, the paper's narrow perceptron: small enough for an exact Fisher matrix (LNGD figs. 1 and 5)."""

from functools import partial

from lngd.bench.datasets.small_images import load_mnist14_split
from lngd.bench.models.mlp import mlp
from lngd.bench.task import Task

TASK = Task(
    name="mnist14-mlp",
    title="MLP 196-20-20-20-20-10 on 4,000 MNIST digits of 14×14 pixels",
    metric="accuracy",
    epochs=10,
    batch_size=64,
    samples=4000,
    model=partial(mlp, 196, 20, 20, 20, 20, 10),
    data=load_mnist14_split,
    step_seconds=0.001,
    # lngd tune mnist14-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1
    rates={"sgd": 0.025, "adamw": 0.016, "muon": 0.005},
    note="1,000 evaluation images",
)
