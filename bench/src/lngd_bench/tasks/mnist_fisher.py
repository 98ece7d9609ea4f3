"""The paper's Figs. 1 and 5: a narrow perceptron on MNIST at 14×14 pixels, small enough for an exact Fisher matrix."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from lngd_bench.tasks.datasets.mnist import load_whole_mnist14_split
from lngd_bench.tasks.datasets.small_images import load_mnist14_split
from lngd_bench.tasks.models.mlp import mlp
from lngd_bench.tasks.task import Scale, Task

FULL = Task(
    name="mnist-fisher",
    title="MLP 196-20-20-20-20-10 on MNIST digits of 14×14 pixels",
    scale="full",
    metric="accuracy",
    epochs=10,
    batch_size=256,
    samples=60000,
    model=partial(mlp, 196, 20, 20, 20, 20, 10),
    data=load_whole_mnist14_split,
    step_seconds=0.002,
    rates={},
    note="10,000 evaluation images",
)
HERE = replace(
    FULL,
    title="MLP 196-20-20-20-20-10 on 4,000 MNIST digits of 14×14 pixels",
    scale="here",
    batch_size=64,
    samples=4000,
    data=load_mnist14_split,
    step_seconds=0.001,
    # lngd tune mnist14-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1, as the task was called then
    rates={"sgd": 0.025, "adamw": 0.016, "muon": 0.005},
    note="1,000 evaluation images",
)
TINY = replace(HERE, title=f"{HERE.title}, 128 of them", scale="tiny", epochs=2, samples=128, rates={})
SCALES: Mapping[Scale, Task] = {"full": FULL, "here": HERE, "tiny": TINY}
TASK = HERE
