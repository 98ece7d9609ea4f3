"""How long a race still takes: measured where an optimizer has been seen on its task, estimated from tables elsewhere."""

from collections import Counter
from collections.abc import Iterable

from lngd_bench.training.race import step_seconds
from lngd_bench.training.train import RunSpec

TRUST = 20
"""Steps that the tables' estimate counts as: an optimizer's first steps can cost several times its ordinary ones."""


class Pace:
    """Seconds of a step, by task and optimizer; evaluation and saving are shared out among the steps."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[tuple[str, str], float] = {}
        self.all_seconds = self.all_expected = 0.0

    def saw(self, spec: RunSpec, steps: int, seconds: float) -> None:
        """So many steps of a run, and what went with them, in so many seconds."""
        kind = (spec.task.name, spec.optimizer)
        self.steps[kind] += steps
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        self.all_seconds += seconds
        self.all_expected += steps * step_seconds(spec)

    def step_seconds(self, spec: RunSpec) -> float:
        """The tables' figure, times what the machine has needed over it so far, gives way to what was measured."""
        kind = (spec.task.name, spec.optimizer)
        expected = step_seconds(spec) * (self.all_seconds / self.all_expected if self.all_expected else 1.0)
        return (self.seconds.get(kind, 0.0) + TRUST * expected) / (self.steps[kind] + TRUST)

    def remaining(self, left: Iterable[tuple[RunSpec, int]]) -> float:
        """Seconds of so many steps of each run."""
        return sum(steps * self.step_seconds(spec) for spec, steps in left)

    def also(self, spec: RunSpec, steps: int, seconds: float) -> "Pace":
        """As if it had seen these too."""
        other = Pace()
        other.steps, other.seconds = Counter(self.steps), dict(self.seconds)
        other.all_seconds, other.all_expected = self.all_seconds, self.all_expected
        other.saw(spec, steps, seconds)
        return other
