"""The registry: a new task is one file and one row."""

from collections.abc import Mapping

from lngd.bench.task import Task
from lngd.bench.tasks import (
    digits_mlp,
    fashion_cnn,
    fashion_mlp,
    fashion_mobilenet,
    fashion_resnet,
    fashion_vit,
    mnist14_mlp,
    mnist_cnn,
    mnist_mlp,
    stdlib_charlm,
)

_MODULES = (
    digits_mlp,
    mnist_mlp,
    mnist14_mlp,
    mnist_cnn,
    fashion_mlp,
    fashion_cnn,
    fashion_resnet,
    fashion_mobilenet,
    fashion_vit,
    stdlib_charlm,
)

TASKS: Mapping[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
DEFAULT_TASKS = ("digits-mlp", "mnist-mlp", "mnist-cnn")  # what `lngd race --default` runs in three minutes
