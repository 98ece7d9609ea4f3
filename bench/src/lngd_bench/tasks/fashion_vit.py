"""Fashion-MNIST, a small vision transformer: attention and LayerNorm on images."""

from functools import partial

from lngd_bench.tasks.datasets.fashion import load_fashion_split
from lngd_bench.tasks.models.vit import ViT
from lngd_bench.tasks.task import Task

TASK = Task(
    name="fashion-vit",
    title="Vision transformer, 16 patches, 3 blocks of width 64, on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=partial(ViT, 7, 64, 3, 4, image=28, channels=1),
    data=load_fashion_split,
    step_seconds=0.03,
    # lngd tune fashion-vit --optimizers sgd,adamw,muon --trials 3 --threads 1 with
    # --steps 120 --epoch-steps 40 --train-samples 12800
    rates={"sgd": 0.2, "adamw": 0.004, "muon": 0.01},
    note="10,000 evaluation images",
)
