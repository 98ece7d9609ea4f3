"""What a step of each method costs beside an SGD step: whole curvature intervals of consecutive steps, step by step.

Conventions. Every rate is 0, so weights stay and all steps do the same work. A method starts past the ramp of its curvature
schedule, two steps before an interval: the first fills its state, and the interval holds exactly one measuring step and one
complete refresh, however that is spread. A step of the reference, SGD, stands after every fourth step: a ratio compares
neighbours in time.
"""

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from lngd.optimizer import NaturalGradient
from lngd_bench.clock import clock
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.workloads import Trainable, Workload
from lngd_bench.tasks.scoring import mean_cross_entropy
from lngd_bench.tasks.task import MeanOver

ASDL = "asdl-kfac"
METHODS = (*(name for name in OPTIMIZERS if name != "lngd-paper"), ASDL)
"""`lngd-paper` is LNGD with other arguments: the same work."""
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
ASDL_DAMPING, ASDL_DECAY = 1e-3, 0.05
"""asdl's own examples'. Neither changes what a step costs."""


@dataclass(frozen=True)
class Interval:
    """One interval of a method: milliseconds of each step, and of the SGD steps among them (`reference`)."""

    method: str
    round: int
    milliseconds: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Amortised milliseconds of a step."""
        return statistics.fmean(self.milliseconds)

    @property
    def ratio(self) -> float:
        """To a step of SGD's."""
        return self.mean / statistics.median(self.reference)

    @property
    def jerk(self) -> float:
        """The worst step over the median one."""
        return max(self.milliseconds) / statistics.median(self.milliseconds)


class Trainee:
    """A model with its optimizer, a step at a time. `first`: how its optimizer counts its first step."""

    def __init__(self, workload: Trainable, method: str, first: int | None = None) -> None:
        self.method, self.model = method, workload.model()
        self.inputs, self.targets = workload.batch_of_data()
        start = PAST_THE_RAMP - WARM_UP.get(method, 2) if first is None else first
        self.optimizer = build(method, self.model, workload.mean_over, start)

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
        start = clock()
        self.optimizer.zero_grad()
        self.backward(self.forward())
        self.optimizer.step()
        return 1e3 * (clock() - start)

    def kept(self) -> Any:
        """Everything whose tensors are the optimizer's state: what a checkpoint of it would hold, but for random generators."""
        saved = self.optimizer.state_dict()
        for group in saved.get("param_groups", ()):
            group.pop("progress", None)  # the random generator, which is the optimizer's own
        return saved

    def forward(self) -> Tensor:
        """The loss."""
        return mean_cross_entropy(self.model(*self.inputs), self.targets)

    def backward(self, loss: Tensor) -> None:
        """Its gradients."""
        loss.backward()


class AsdlTrainee(Trainee):
    """K-FAC of asdl (PyPI: asdfghjkl) beside ours. It runs forward and backward by itself, so it is no competitor's row.

    It measures and inverts every INTERVAL steps; the step itself is SGD's with the preconditioned gradient.
    """

    def __init__(self, workload: Trainable) -> None:
        if not find_spec("asdl"):
            raise BenchError("asdl's K-FAC needs asdfghjkl: pip install asdfghjkl")
        super().__init__(workload, "sgd")
        self.method = ASDL
        with _tolerated():
            library: Any = import_module("asdl")
        settings = library.PreconditioningConfig(
            preconditioner_upd_interval=INTERVAL,
            curvature_upd_interval=INTERVAL,
            damping=ASDL_DAMPING,
            ema_decay=ASDL_DECAY,
            data_size=len(self.targets),
            ignore_modules=[nn.Embedding],
        )
        self.maker = library.KfacGradientMaker(self.model, settings)

    def step(self) -> float:
        start = clock()
        self.optimizer.zero_grad()
        outputs = self.maker.setup_model_call(self.model, *self.inputs)
        if self.targets.dim() > 1:
            outputs = outputs.flatten(0, -2)
        self.maker.setup_loss_call(functional.cross_entropy, outputs, self.targets.flatten())
        with _tolerated():
            self.maker.forward_and_backward()
        self.optimizer.step()
        return 1e3 * (clock() - start)

    def kept(self) -> Any:
        """SGD's momentum, and the factors and inverses that asdl hangs on modules."""
        return [super().kept(), *(vars(module).get("fisher") for module in self.model.modules())]


def asdl_takes(workload: Workload) -> bool:
    """It has no grouped convolutions and takes one input."""
    grouped = any(m.groups > 1 for m in workload.model().modules() if isinstance(m, nn.Conv2d))
    return not grouped and len(workload.network.inputs(2)) == 1


@contextmanager
def _tolerated() -> Iterator[None]:
    """What asdl does is outdated in today's torch, and its ranges for CUDA's profiler are refused where there is no CUDA."""
    nvtx: Any = torch.cuda.nvtx
    before = nvtx.range_push, nvtx.range_pop
    if not torch.cuda.is_available():
        nvtx.range_push = nvtx.range_pop = lambda *_: 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        nvtx.range_push, nvtx.range_pop = before


def trainee_of(workload: Workload, method: str) -> Trainee:
    """A method's, whether it is a row of the competitors or runs by itself."""
    return AsdlTrainee(workload) if method == ASDL else Trainee(workload, method)


def build(method: str, model: nn.Module, mean_over: MeanOver = "batch", first: int = PAST_THE_RAMP) -> Optimizer:
    """As the competitor's row has it, at rate 0; ours count their first step as `first`."""
    optimizer = OPTIMIZERS[method].build(model, Setting(lr=0.0, mean_over=mean_over))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    if isinstance(optimizer, NaturalGradient):
        fresh: dict[str, Any] = optimizer.state_dict()
        for group in fresh["param_groups"]:
            group["progress"] = {**group["progress"], "steps": first}
        optimizer.load_state_dict(fresh)
    return optimizer


def interval(trainee: Trainee, reference: Trainee, number: int) -> Interval:
    """Consecutive steps with the reference's among them."""
    steps, beside = [], []
    for step in range(trainee.interval):
        steps.append(trainee.step())
        if step % REFERENCE_EVERY == REFERENCE_EVERY - 1:
            beside.append(reference.step())
    return Interval(trainee.method, number, tuple(steps), tuple(beside))
