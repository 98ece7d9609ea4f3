"""THOR's rule, a refresh only where the trace of a factor has moved by more than a share ω since the last one.

A real run of LNGD; what the rule would have skipped is worked out afterwards, layer by layer, from the factors of every
measurement. The change is ‖Φ̂⁻¹ now − Φ̂⁻¹ kept‖ / ‖Φ̂⁻¹ kept‖ at the library's damping: large at a skipped refresh means that the
rule missed something.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor

from lngd import LNGD
from lngd.linalg import Damping, damped, inverse
from lngd_bench.studies.kernels.factors import DAMPING
from lngd_bench.studies.kernels.stopwatch import Record, found
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.schedule import LINEAR, scheduler
from lngd_bench.tasks.scoring import mean_cross_entropy

TASK, STEPS, SEED = "fashion-mlp", 400, 0
INTERVALS, OMEGAS = (20, 5), (0.01, 0.05, 0.1)
WHOLE = 8192
"""No factor of the task is larger: Φ is dense."""


def cases() -> Iterator[Record]:
    """For the default interval of measurements and a shorter one."""
    for every in INTERVALS:
        factors = measured(every)
        for omega in OMEGAS:
            idea = f"refresh where tr Φ moved by ω = {omega}"
            yield found(idea, f"{TASK}, measured every {every}", outcome(factors, omega))


@torch.enable_grad()
def measured(every: int) -> Mapping[str, list[Tensor]]:
    """Φ of each layer at each measurement of a run."""
    task, factors, seen = TASKS[TASK], defaultdict(list), 0
    torch.manual_seed(SEED)
    model = task.model()
    optimizer = LNGD(model, schedule=every, factors=WHOLE)
    schedule = scheduler(optimizer, LINEAR, STEPS)
    for x, y in islice(task.data(None).batches(task.batch_size, torch.Generator().manual_seed(SEED)), STEPS):
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


def outcome(factors: Mapping[str, list[Tensor]], omega: float) -> dict[str, float]:
    """Shares and changes over all layers; the first refresh of a layer is not a choice and does not count."""
    changes: dict[str, list[float]] = {"skipped": [], "refreshed": []}
    for series in factors.values():
        inverses = [inverse(damped(phi, Damping(DAMPING), len(phi))) for phi in series]
        kept = 0
        for now in range(1, len(series)):
            change = float((inverses[now] - inverses[kept]).norm() / inverses[kept].norm())
            moved = abs(float(series[now].trace() / series[kept].trace()) - 1) > omega
            changes["refreshed" if moved else "skipped"].append(change)
            kept = now if moved else kept
    choices = sum(map(len, changes.values()))
    figures = {"choices": choices, "skipped": len(changes["skipped"]) / choices}
    for kind, values in changes.items():
        if values:
            figures |= {f"change, {kind}, median": statistics.median(values), f"change, {kind}, max": max(values)}
    return figures
