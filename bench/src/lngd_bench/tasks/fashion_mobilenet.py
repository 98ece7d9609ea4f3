"""Fashion-MNIST, a small MobileNet: depthwise convolutions, one output channel for each input channel, and BatchNorm."""

from functools import partial

from lngd_bench.tasks.datasets.fashion import load_fashion_split
from lngd_bench.tasks.models.mobilenet import MobileNet
from lngd_bench.tasks.task import Task

TASK = Task(
    name="fashion-mobilenet",
    title="MobileNet with 4 separable stages on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=partial(MobileNet, ((32, 1), (64, 2), (64, 1), (128, 2)), 16, stem_stride=2, channels=1),
    data=load_fashion_split,
    step_seconds=0.03,
    # lngd tune fashion-mobilenet --optimizers sgd,adamw,muon --trials 3 --threads 1 with
    # --steps 120 --epoch-steps 40 --train-samples 12800
    rates={"sgd": 0.17, "adamw": 0.032, "muon": 0.08},
    note="10,000 evaluation images",
)
