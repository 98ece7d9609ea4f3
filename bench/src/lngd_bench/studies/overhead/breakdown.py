"""Where a step's time goes: a method's interval once more under a profiler that knows which function belongs to which stage.

Time counts for the innermost function that has a stage, so no stage contains another: measuring in the forward pass is not
forward, a hook in the backward pass is not backward.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Literal

from lngd_bench.clock import clock
from lngd_bench.studies.overhead.overhead import Trainee

Stage = Literal["forward", "backward", "capture", "measure", "refresh", "precondition", "orthogonalise", "rate", "apply", "other"]
STAGES: tuple[Stage, ...] = (
    "forward",
    "backward",
    "capture",
    "measure",
    "refresh",
    "precondition",
    "orthogonalise",
    "rate",
    "apply",
    "other",
)
ANY = ""

FUNCTIONS: tuple[tuple[str, str, Stage], ...] = (
    ("lngd_bench.studies.overhead.overhead", "forward", "forward"),
    ("lngd_bench.studies.overhead.overhead", "backward", "backward"),
    ("lngd", "orthogonalised", "orthogonalise"),
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
    ("lngd.step_size", ANY, "rate"),
    ("lngd.optimizer.layer_step", ANY, "apply"),
    ("lngd.optimizer.adamw", ANY, "apply"),
    ("lngd.optimizer.natural_gradient", "step", "other"),
)
"""Module or package, function (any of it where empty) and its stage; the first row that fits decides. A function that has no row
belongs to whoever called it."""


def stage_of(code: CodeType, module: str) -> Stage | None:
    """That of a function."""
    for place, name, stage in FUNCTIONS:
        if (module == place or module.startswith(f"{place}.")) and name in (ANY, code.co_name):
            return stage
    return None


@dataclass
class StageProfile:
    """Counts seconds by stage while it is entered as a context; what lies in no function with a stage is `other`."""

    seconds: defaultdict[Stage, float] = field(default_factory=lambda: defaultdict(float))
    _stack: list[Stage] = field(default_factory=lambda: ["other"])
    _known: dict[CodeType, Stage | None] = field(default_factory=dict)
    _since: float = 0.0

    def __enter__(self) -> "StageProfile":
        self._since = clock()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._count()

    def _event(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._known:
            self._known[code] = stage_of(code, frame.f_globals.get("__name__", ""))
        stage = self._known[code]
        if stage is None:
            return
        self._count()
        if event == "call":
            self._stack.append(stage)
        elif len(self._stack) > 1:
            self._stack.pop()

    def _count(self) -> None:
        """What has passed since the last change goes to the stage on top."""
        now = clock()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def breakdown(trainee: Trainee) -> dict[Stage, float]:
    """Milliseconds of a step by stage, the mean over an interval."""
    with StageProfile() as profile:
        for _ in range(trainee.interval):
            trainee.step()
    return {stage: 1e3 * profile.seconds[stage] / trainee.interval for stage in STAGES}


def total(stages: dict[Stage, float]) -> float:
    """Of all stages."""
    return sum(stages.values())
