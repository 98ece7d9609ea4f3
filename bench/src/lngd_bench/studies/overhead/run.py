"""One call of `lngd overhead`: every method in its turn, built, timed, weighed and freed."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lngd.optimizer import NaturalGradient
from lngd_bench.studies.overhead.breakdown import breakdown
from lngd_bench.studies.overhead.memory import parameter_count, peak_bytes, state_bytes, trainee_of
from lngd_bench.studies.overhead.overhead import Interval, Trainee, interval
from lngd_bench.studies.overhead.records import Found
from lngd_bench.studies.overhead.workloads import Workload


@dataclass(frozen=True)
class Plan:
    """What a call measures. `peak`: in a process of its own for each method."""

    methods: Sequence[str]
    rounds: int
    peak: bool


def run(plan: Plan, workload: Workload) -> Iterator[Found]:
    """Each method when it is finished."""
    reference = Trainee(workload, "sgd")
    reference.warm_up()
    for method in plan.methods:
        found = _measured(method, workload, reference, plan.rounds)
        gc.collect()
        if plan.peak:
            found.peak_bytes = peak_bytes(workload, method)
        yield found


def _measured(method: str, workload: Workload, reference: Trainee, rounds: int) -> Found:
    trainee = trainee_of(workload, method)
    trainee.warm_up()
    intervals: list[Interval] = [interval(trainee, reference, number) for number in range(rounds)]
    kept, count = state_bytes(trainee), parameter_count(trainee.model)
    stages = breakdown(trainee) if isinstance(trainee.optimizer, NaturalGradient) else {}
    return Found(method, intervals, kept, count, stages=stages)
