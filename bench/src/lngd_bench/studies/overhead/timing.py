"""What a step of each method costs beside an SGD step: whole curvature intervals of consecutive steps, step by step.

Conventions. Every rate is 0, so weights stay and all steps do the same work. A method starts past the ramp of its curvature
schedule, two steps before an interval: the first fills its state, and the interval holds exactly one measuring step and one
complete refresh, however that is spread. A step of the reference, SGD, stands after every fourth step: a ratio compares
neighbours in time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lngd.optimizer import NaturalGradient
from lngd_bench.clock import clock
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.studies.overhead.workloads import Inputs, Workload
from lngd_bench.tasks.scoring import mean_cross_entropy
from lngd_bench.tasks.task import MeanOver

METHODS = tuple(name for name in OPTIMIZERS if name not in ("lngd-paper", "kfac-scheduled"))
"""Those two are LNGD and K-FAC with other arguments: the same work."""
DEFAULT_METHODS = ("sgd", "adamw", "muon", "muon-fp32", "soap", "shampoo", "kfac", "lngd", "lngd-spectral")
STATELESS = {"sgd": 6, "adamw": 6, "muon": 6, "muon-fp32": 6}
"""Steps of those whose steps are all alike."""
INTERVAL = 20
"""Steps of the others: two refreshes of SOAP's and of Shampoo's."""
WARM_UP = {"shampoo": 12}
"""Steps until a method does what it does for the rest of a run; two where nothing is said."""
REFERENCE_EVERY = 4
PAST_THE_RAMP = 1000
"""A step at which any interval may begin: a multiple of all customary ones."""

Builder = Callable[[str, nn.Module, MeanOver, int], Optimizer]
"""Of a method's name, a model, what the loss is a mean over, and how the first step counts."""


class Trainee:
    """A model with its optimizer and a batch, a step at a time.

    Args:
        first: how its optimizer counts its first step.
        builder: makes the optimizer.
    """

    def __init__(
        self,
        method: str,
        model: nn.Module,
        inputs: Inputs,
        targets: Tensor,
        *,
        mean_over: MeanOver = "batch",
        first: int | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        builder: Builder | None = None,
    ) -> None:
        self.method, self.model, self.inputs, self.targets, self.autocast = method, model, inputs, targets, autocast
        start = PAST_THE_RAMP - WARM_UP.get(method, 2) if first is None else first
        self.optimizer = (builder or build)(method, model, mean_over, start)

    @property
    def interval(self) -> int:
        """Steps after which everything has happened as often as it does on average."""
        if isinstance(self.optimizer, NaturalGradient):
            schedule = self.optimizer.recipe.schedule
            return max(schedule.curvature_every, schedule.inverse_every)
        return STATELESS.get(self.method, INTERVAL)

    def warm_up(self) -> None:
        """Fills the state."""
        for _ in range(WARM_UP.get(self.method, 2)):
            self.step()

    def step(self) -> float:
        """Milliseconds of forward, backward and optimizer."""
        device = self.targets.device
        start = clock(device)
        self.optimizer.zero_grad()
        self.backward(self.forward())
        self.optimizer.step()
        return 1e3 * (clock(device) - start)

    def forward(self) -> Tensor:
        """The loss."""
        with self.autocast():
            outputs = self.model(*self.inputs)
        return mean_cross_entropy(outputs, self.targets)

    def backward(self, loss: Tensor) -> None:
        """Its gradients."""
        loss.backward()


def trainee_of(workload: Workload, method: str, builder: Builder | None = None) -> Trainee:
    inputs, targets = workload.batch_of_data()
    return Trainee(
        method, workload.model(), inputs, targets, mean_over=workload.mean_over, autocast=workload.autocast, builder=builder
    )


def build(method: str, model: nn.Module, mean_over: MeanOver = "batch", first: int = PAST_THE_RAMP) -> Optimizer:
    """As the competitor's row has it, at rate 0; ours count their first step as `first`."""
    optimizer = OPTIMIZERS[method].build(model, Setting(lr=0.0, mean_over=mean_over))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return counted_from(first, optimizer) if isinstance(optimizer, NaturalGradient) else optimizer


def counted_from(first: int, optimizer: Optimizer) -> Optimizer:
    """One of ours, of this checkout or another, whose next step counts as `first`."""
    fresh: dict[str, Any] = optimizer.state_dict()
    if "lngd" in fresh:  # checkpoints up to format 4 had it in one place
        fresh["lngd"] = {**fresh["lngd"], "steps": first}
    else:
        for group in fresh["param_groups"]:
            group["progress"] = {**group["progress"], "steps": first}
    optimizer.load_state_dict(fresh)
    return optimizer


def interval(trainee: Trainee, reference: Trainee, number: int) -> dict[str, Any]:
    """A record of consecutive steps with the reference's among them, in milliseconds."""
    steps, beside = [], []
    for step in range(trainee.interval):
        steps.append(trainee.step())
        if step % REFERENCE_EVERY == REFERENCE_EVERY - 1:
            beside.append(reference.step())
    return {"method": trainee.method, "round": number, "milliseconds": steps, "reference": beside}
