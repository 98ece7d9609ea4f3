"""Fashion-MNIST, a small ResNet with BatchNorm: the paper's kind of network."""

from lngd_bench.tasks.datasets.fashion import load_fashion_split
from lngd_bench.tasks.models.resnet import ResNet
from lngd_bench.tasks.task import Task

TASK = Task(
    name="fashion-resnet",
    title="Small ResNet with BatchNorm on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=ResNet,
    data=load_fashion_split,
    step_seconds=0.04,
    # lngd tune fashion-resnet --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    # stopped after one extension of the grid: AdamW is flat from 0.008 to 0.032, within 0.4 points
    # the family with --steps 400 --epoch-steps 200 (docs/results/family/tuning)
    rates={
        "sgd": 0.2,
        "adamw": 0.032,
        "muon": 0.014,
        "kfac": 0.05,
        "ekfac": 0.025,
        "tkfac": 0.05,
        "ngplus": 1.0,
        "thor": 0.05,
        "lngd-sample": 2.4,
    },
    note="10,000 evaluation images",
)
