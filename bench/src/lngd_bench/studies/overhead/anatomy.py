"""What a method's memory and time go into: bytes of state, the peak of a process, and a step's time by stage.

Time counts for the innermost function that has a stage, so no stage contains another: measuring in the forward pass is not
forward, a hook in the backward pass is not backward. A peak is that of a process of its own: where others have trained before,
freed memory that the allocator keeps would count.
"""

import re
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lngd.optimizer import NaturalGradient
from lngd_bench.clock import CPU, clock
from lngd_bench.studies.overhead.timing import STATELESS, WARM_UP, Trainee, trainee_of
from lngd_bench.studies.overhead.workloads import Workload

STAGES = ("forward", "backward", "capture", "measure", "refresh", "precondition", "orthogonalise", "rate", "apply", "other")
ANY = ""
FUNCTIONS = (
    ("lngd_bench.studies.overhead.timing", "forward", "forward"),
    ("lngd_bench.studies.overhead.timing", "backward", "backward"),
    ("lngd.curvature", "orthogonalise", "orthogonalise"),
    ("lngd", "draw", "measure"),
    ("lngd", "sampled_gradient", "measure"),
    ("lngd", "pull_back", "measure"),
    ("lngd", "fisher_weight", "measure"),
    ("lngd", "curvature_along", "rate"),
    ("lngd.capture", ANY, "capture"),
    ("lngd.sampling", ANY, "capture"),
    ("lngd.optimizer.curved_layer", "measure", "measure"),
    ("lngd.optimizer.natural_gradient", "_measure", "measure"),
    ("lngd.optimizer.natural_gradient", "_refresh", "refresh"),
    ("lngd.curvature", "precondition", "precondition"),
    ("lngd.curvature.spectral", "by_phi", "precondition"),
    ("lngd.step_size", ANY, "rate"),
    ("lngd.optimizer.layer_step", ANY, "apply"),
    ("lngd.optimizer.stack", ANY, "apply"),
    ("lngd.optimizer.adamw", ANY, "apply"),
    ("lngd.optimizer.natural_gradient", "step", "other"),
)
"""Module or package, function (any of it where empty) and its stage; the first row that fits decides. A function that has no row
belongs to whoever called it."""
STATUS = Path("/proc/self/status")
PEAK_STEPS = 12
"""Those that hold one of every kind: at least a measuring step with all state in place, and a peer's first refresh."""


def state_bytes(trainee: Trainee) -> int:
    """Of every tensor that the optimizer keeps: moments, statistics, inverses, averages. Each memory counts once."""
    saved = trainee.optimizer.state_dict()
    for group in saved.get("param_groups", ()):
        group.pop("progress", None)  # the random generator, which is the optimizer's own
    known = {p.untyped_storage().data_ptr() for p in trainee.model.parameters()}
    storages = [leaf.untyped_storage() for leaf in tree_leaves(saved) if isinstance(leaf, Tensor)]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for place, size in sizes.items() if place not in known)


def peak_bytes(workload: Workload, method: str) -> int | None:
    """The highest resident memory of a few steps, model and batch included, Python and torch not; None where Linux is missing."""
    if not (STATUS.exists() or workload.device != "cpu"):
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(_rise, workload, method, torch.get_num_threads()).result()


def _rise(workload: Workload, method: str, threads: int) -> int:
    """Bytes by which the steps make this process grow."""
    torch.set_num_threads(threads)
    trainee_of(Workload("mlp", 2, 2), method)  # imports what is imported when it is built
    gpu = torch.device(workload.device).type == "cuda"
    before = 0 if gpu else _resident("VmRSS")
    trainee = trainee_of(workload, method)
    known = method in STATELESS or isinstance(trainee.optimizer, NaturalGradient)
    for _ in range(WARM_UP.get(method, 2) + 1 if known else PEAK_STEPS):
        trainee.step()
    return torch.cuda.max_memory_allocated(workload.device) if gpu else _resident("VmHWM") - before


def _resident(kind: str) -> int:
    """Bytes: `VmRSS`, now, or `VmHWM`, the most so far. `ru_maxrss` would begin with what the parent process had."""
    found = re.search(rf"^{kind}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 2**10


def breakdown(trainee: Trainee) -> dict[str, float]:
    """Milliseconds of a step by stage, the mean over an interval."""
    with StageProfile(trainee.targets.device) as profile:
        for _ in range(trainee.interval):
            trainee.step()
    return {stage: 1e3 * profile.seconds[stage] / trainee.interval for stage in STAGES}


class StageProfile:
    """Counts seconds by stage while it is entered as a context; what lies in no function with a stage is `other`.

    Of a GPU, for whose work each change waits, they add up to more than a step takes without it.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stack = ["other"]
        self._stage = cache(_stage_of)

    def __enter__(self) -> "StageProfile":
        self._since = clock(self.device)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._count()

    def _event(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event not in ("call", "return"):
            return
        stage = self._stage(frame.f_code, frame.f_globals.get("__name__", ""))
        if stage is None:
            return
        self._count()
        if event == "call":
            self._stack.append(stage)
        elif len(self._stack) > 1:
            self._stack.pop()

    def _count(self) -> None:
        """What has passed since the last change goes to the stage on top."""
        now = clock(self.device)
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def _stage_of(code: CodeType, module: str) -> str | None:
    for place, name, stage in FUNCTIONS:
        if (module == place or module.startswith(f"{place}.")) and name in (ANY, code.co_name):
            return stage
    return None
