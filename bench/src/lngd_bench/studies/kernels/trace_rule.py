"""Idea 8: THOR's rule, a refresh only where the trace of a factor has moved by more than a share ω since the last one.

A real run of LNGD; what the rule would have skipped is worked out afterwards, layer by layer, from the factors of every
measurement. The change is ‖Φ̂⁻¹ now − Φ̂⁻¹ kept‖ / ‖Φ̂⁻¹ kept‖ at the library's damping: large at a skipped refresh means that the
rule missed something.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from lngd import LNGD
from lngd.linalg import Damping, damped, inverse
from lngd_bench.studies.kernels.factors import DAMPING
from lngd_bench.studies.kernels.stopwatch import Row
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.schedule import LINEAR, scheduler
from lngd_bench.tasks.scoring import mean_cross_entropy

TASK, STEPS, SEED = "fashion-mlp", 400, 0
INTERVALS, OMEGAS = (20, 5), (0.01, 0.05, 0.1)
WHOLE = 8192
"""No factor of the task is larger: Φ is dense."""
Factors = dict[str, list[Tensor]]


def cases() -> Iterator[Row]:
    """For the default interval of measurements and a shorter one."""
    for every in INTERVALS:
        factors = run(every)
        size = f"{TASK}, measured every {every}"
        inverses = {
            name: [inverse(damped(phi, Damping(DAMPING), len(phi))) for phi in series] for name, series in factors.items()
        }
        for omega in OMEGAS:
            yield Row(idea=f"refresh where tr Φ moved by ω = {omega}", size=size, figures=outcome(factors, inverses, omega))


def run(every: int) -> Factors:
    """Φ of each layer at each measurement."""
    task = TASKS[TASK]
    factors: Factors = defaultdict(list)
    torch.manual_seed(SEED)
    model = task.model()
    optimizer = LNGD(model, schedule=every, factors=WHOLE)
    schedule = scheduler(optimizer, LINEAR, STEPS)
    batches = task.data(None).batches(task.batch_size, torch.Generator().manual_seed(SEED))
    seen = 0
    for x, y in islice(batches, STEPS):
        optimizer.zero_grad()
        mean_cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
        updates = next(iter(optimizer.blocks.values())).updates
        if updates > seen:
            seen = updates
            for name, block in optimizer.blocks.items():
                factors[name].append(block.tensors()["phi"].clone())
    return factors


def outcome(factors: Factors, inverses: Factors, omega: float) -> dict[str, float]:
    """Shares and changes over all layers; the first refresh of a layer is not a choice and does not count."""
    skipped: list[float] = []
    refreshed: list[float] = []
    for name, series in factors.items():
        kept = 0
        for now in range(1, len(series)):
            moved = abs(float(series[now].trace() / series[kept].trace()) - 1) > omega
            (refreshed if moved else skipped).append(change(inverses[name], now, kept))
            kept = now if moved else kept
    return {"choices": len(skipped) + len(refreshed), "skipped": len(skipped) / (len(skipped) + len(refreshed))} | {
        f"change, {kind}, {what}": of(values)
        for kind, values in (("skipped", skipped), ("refreshed", refreshed))
        for what, of in (("median", statistics.median), ("max", max))
        if values
    }


def change(inverses: list[Tensor], now: int, kept: int) -> float:
    """Of the inverse since the last refresh."""
    return float((inverses[now] - inverses[kept]).norm() / inverses[kept].norm())
