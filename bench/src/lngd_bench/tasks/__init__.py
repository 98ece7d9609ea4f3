"""The registry: a new task is a row here."""

from collections.abc import Mapping

from lngd_bench.errors import BenchError
from lngd_bench.tasks import cifar10_resnet18, imagenet_resnet50, wmt_transformer_big
from lngd_bench.tasks.small_tasks import MNIST_FISHER, SMALL_TASKS
from lngd_bench.tasks.task import Scale, Task

_PAPERS = (MNIST_FISHER, cifar10_resnet18.SCALES, imagenet_resnet50.SCALES, wmt_transformer_big.SCALES)
"""The paper's experiments, each at three scales."""

TASKS: Mapping[str, Task] = {task.name: task for task in (*SMALL_TASKS, *(scales["here"] for scales in _PAPERS))}
SCALES: Mapping[str, Mapping[Scale, Task]] = {scales["here"].name: scales for scales in _PAPERS}
DEFAULT_TASKS = ("digits-mlp", "mnist-mlp", "mnist-cnn")  # what `lngd race --default` runs in three minutes


def at_scale(name: str, scale: Scale) -> Task:
    """A task of TASKS at a scale; raises BenchError where it has another one only."""
    if name in SCALES:
        return SCALES[name][scale]
    if scale != TASKS[name].scale:
        raise BenchError(f"{name} has one scale only: leave out --scale, or choose among {', '.join(SCALES)}")
    return TASKS[name]
