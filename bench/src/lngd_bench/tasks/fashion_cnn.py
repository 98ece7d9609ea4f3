"""Fashion-MNIST, a plain convolutional network: every badly scaled step shows."""

from lngd_bench.tasks.datasets.fashion import load_fashion_split
from lngd_bench.tasks.models.cnn import cnn
from lngd_bench.tasks.task import Task

TASK = Task(
    name="fashion-cnn",
    title="CNN without normalisation on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=cnn,
    data=load_fashion_split,
    step_seconds=0.035,
    # lngd tune fashion-cnn --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    rates={"sgd": 0.05, "adamw": 0.016, "muon": 0.0071},
    note="10,000 evaluation images",
)
