"""The tasks of one scale, which two CPU cores run in seconds or minutes, and the paper's narrow perceptron at three.

The rates come from the command above them; the family's, from K-FAC on, from the same options.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from lngd_bench.tasks.datasets.mnist_family import FASHION, MNIST, load_fashion_split, load_whole_mnist14_split
from lngd_bench.tasks.datasets.python_source import CONTEXT, PYTHON_SOURCE, VOCABULARY, load_python_source
from lngd_bench.tasks.datasets.small_images import DIGITS, MNIST5K, load_digits_split, load_mnist14_split, load_mnist_split
from lngd_bench.tasks.models.gpt import GPT, ViT
from lngd_bench.tasks.models.mobilenet import MobileNet
from lngd_bench.tasks.models.plain import cnn, mlp
from lngd_bench.tasks.models.resnet import ResNet
from lngd_bench.tasks.task import Scale, Task

digits_mlp = Task(
    name="digits-mlp",
    title="MLP 64-64-64-10 on digits",
    metric="accuracy",
    epochs=15,
    batch_size=64,
    samples=1437,
    model=partial(mlp, 64, 64, 64, 10),
    data_set=DIGITS,
    data=load_digits_split,
    step_seconds=0.001,
    # lngd tune digits-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1
    rates={"sgd": 0.1, "adamw": 0.004, "muon": 0.02},
    note="360 evaluation images",
)
mnist_mlp = Task(
    name="mnist-mlp",
    title="MLP 784-128-64-10 on 4,000 MNIST digits",
    metric="accuracy",
    epochs=10,
    batch_size=64,
    samples=4000,
    model=partial(mlp, 784, 128, 64, 10),
    data_set=MNIST5K,
    data=load_mnist_split,
    step_seconds=0.0015,
    # lngd tune mnist-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1
    rates={"sgd": 0.05, "adamw": 0.0028, "muon": 0.005}
    | {"kfac": 0.4, "ekfac": 0.025, "tkfac": 0.05, "ngplus": 0.12, "thor": 0.8, "lngd-sample": 0.037},
    note="1,000 evaluation images",
)
mnist_cnn = replace(
    mnist_mlp,
    name="mnist-cnn",
    title="CNN without normalisation on 4,000 MNIST digits",
    epochs=8,
    model=partial(cnn, (8, 16, 32)),
    step_seconds=0.012,
    # lngd tune mnist-cnn --optimizers sgd,adamw,muon --trials 4 --threads 1
    rates={"sgd": 0.1, "adamw": 0.004, "muon": 0.005}
    | {"kfac": 0.05, "ekfac": 0.1, "tkfac": 0.05, "ngplus": 0.5, "thor": 0.2, "lngd-sample": 0.42},
)
fashion_mlp = Task(
    name="fashion-mlp",
    title="MLP 784-256-256-128-10 on Fashion-MNIST",
    metric="accuracy",
    epochs=5,
    batch_size=128,
    samples=60000,
    model=partial(mlp, 784, 256, 256, 128, 10),
    data_set=FASHION,
    data=load_fashion_split,
    step_seconds=0.004,
    # lngd tune fashion-mlp --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    rates={"sgd": 0.14, "adamw": 0.004, "muon": 0.0025},
    note="10,000 evaluation images",
)
_FASHION: Mapping[str, tuple[str, Callable[[], nn.Module], float, Mapping[str, float]]] = {
    # lngd tune fashion-cnn --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    "fashion-cnn": ("CNN without normalisation on Fashion-MNIST", cnn, 0.035, {"sgd": 0.05, "adamw": 0.016, "muon": 0.0071}),
    # lngd tune fashion-resnet --optimizers sgd,adamw,muon --trials 4 --steps 1000 --threads 1
    # stopped after one extension of the grid: AdamW is flat from 0.008 to 0.032, within 0.4 points
    # the family with --steps 400 --epoch-steps 200
    "fashion-resnet": (
        "Small ResNet with BatchNorm on Fashion-MNIST",
        ResNet,
        0.04,
        {"sgd": 0.2, "adamw": 0.032, "muon": 0.014}
        | {"kfac": 0.05, "ekfac": 0.025, "tkfac": 0.05, "ngplus": 1.0, "thor": 0.05, "lngd-sample": 2.4},
    ),
    # lngd tune fashion-mobilenet --optimizers sgd,adamw,muon --trials 3 --threads 1 with
    # --steps 120 --epoch-steps 40 --train-samples 12800; fashion-vit by the same
    "fashion-mobilenet": (
        "MobileNet with 4 separable stages on Fashion-MNIST",
        partial(MobileNet, ((32, 1), (64, 2), (64, 1), (128, 2)), 16, stem_stride=2, channels=1),
        0.03,
        {"sgd": 0.17, "adamw": 0.032, "muon": 0.08},
    ),
    "fashion-vit": (
        "Vision transformer, 16 patches, 3 blocks of width 64, on Fashion-MNIST",
        partial(ViT, 7, 64, 3, 4, image=28, channels=1),
        0.03,
        {"sgd": 0.2, "adamw": 0.004, "muon": 0.01},
    ),
}
"""Title, model, seconds of a step and rates."""
stdlib_charlm = Task(
    name="stdlib-charlm",
    title="GPT with 3 layers on Python source, characters",
    metric="loss",
    epochs=2,
    batch_size=16,
    samples=31249,
    model=partial(GPT, VOCABULARY, CONTEXT),
    data_set=PYTHON_SOURCE,
    data=load_python_source,
    step_seconds=0.13,
    epoch_steps=200,
    mean_over="token",
    # lngd tune stdlib-charlm --optimizers sgd,adamw,muon --trials 3 --steps 200 --threads 1
    rates={"sgd": 0.05, "adamw": 0.002, "muon": 0.014},
    note="an epoch is 200 steps; loss in nats a character",
)
SMALL_TASKS = (
    *(digits_mlp, mnist_mlp, mnist_cnn, fashion_mlp),
    *(
        replace(fashion_mlp, name=name, title=title, model=model, step_seconds=seconds, rates=rates)
        for name, (title, model, seconds, rates) in _FASHION.items()
    ),
    stdlib_charlm,
)

_FISHER = Task(  # the paper's Figs. 1 and 5: small enough for an exact Fisher matrix
    name="mnist-fisher",
    title="MLP 196-20-20-20-20-10 on MNIST digits of 14×14 pixels",
    scale="full",
    metric="accuracy",
    epochs=10,
    batch_size=256,
    samples=60000,
    model=partial(mlp, 196, 20, 20, 20, 20, 10),
    data_set=MNIST,
    data=load_whole_mnist14_split,
    step_seconds=0.002,
    rates={},
    note="10,000 evaluation images",
)
_FISHER_HERE = replace(
    _FISHER,
    title="MLP 196-20-20-20-20-10 on 4,000 MNIST digits of 14×14 pixels",
    scale="here",
    batch_size=64,
    samples=4000,
    data_set=MNIST5K,
    data=load_mnist14_split,
    step_seconds=0.001,
    # lngd tune mnist14-mlp --optimizers sgd,adamw,muon --trials 4 --threads 1, as the task was called then
    rates={"sgd": 0.025, "adamw": 0.016, "muon": 0.005},
    note="1,000 evaluation images",
)
MNIST_FISHER: Mapping[Scale, Task] = {
    "full": _FISHER,
    "here": _FISHER_HERE,
    "tiny": replace(_FISHER_HERE, title=f"{_FISHER_HERE.title}, 128 of them", scale="tiny", epochs=2, samples=128, rates={}),
}
