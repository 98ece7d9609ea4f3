"""The registry: a new task is one file and one row."""

from collections.abc import Mapping

from lngd_bench.errors import BenchError
from lngd_bench.tasks import (
    cifar10_resnet18,
    digits_mlp,
    fashion_cnn,
    fashion_mlp,
    fashion_mobilenet,
    fashion_resnet,
    fashion_vit,
    imagenet_resnet50,
    mnist_cnn,
    mnist_fisher,
    mnist_mlp,
    stdlib_charlm,
    wmt_transformer_big,
)
from lngd_bench.tasks.task import Scale, Task

_PAPERS = (mnist_fisher, cifar10_resnet18, imagenet_resnet50, wmt_transformer_big)
"""The paper's experiments, each at three scales."""
_MODULES = (
    digits_mlp,
    mnist_mlp,
    mnist_cnn,
    fashion_mlp,
    fashion_cnn,
    fashion_resnet,
    fashion_mobilenet,
    fashion_vit,
    stdlib_charlm,
    *_PAPERS,
)

TASKS: Mapping[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
SCALES: Mapping[str, Mapping[Scale, Task]] = {module.TASK.name: module.SCALES for module in _PAPERS}
DEFAULT_TASKS = ("digits-mlp", "mnist-mlp", "mnist-cnn")  # what `lngd race --default` runs in three minutes


def at_scale(name: str, scale: Scale) -> Task:
    """A task of TASKS at a scale.

    Raises:
        BenchError: the task has one scale only, and it is another.
    """
    if name in SCALES:
        return SCALES[name][scale]
    if scale != TASKS[name].scale:
        raise BenchError(f"{name} has one scale only: leave out --scale, or choose among {', '.join(SCALES)}")
    return TASKS[name]
