"""The tasks and the runs of the comparison on a language model: what identifies one, how it is made, where it is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

from torch import nn
from torch.optim import Optimizer

from lngd import LNGD, SpectralLNGD
from lngd.methods import Method
from lngd_bench.competitors.optimizers import OPTIMIZERS, Competitor, Setting, is_current
from lngd_bench.ledger import Ledger, Line
from lngd_bench.studies.language.tuning import Point, tuned
from lngd_bench.studies.variants.changes import NAME, Build
from lngd_bench.tasks import TASKS as TABLE
from lngd_bench.tasks.data import Data, in_memory
from lngd_bench.tasks.datasets.python_source import CONTEXT, VOCABULARY
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task
from lngd_bench.training.train import RunSpec, train, warm_up
from lngd_bench.training.tune import rounded

EVALUATIONS = 20
"""Of a reported run. A trial has one, at its end."""
SAMPLES = 256
"""That an evaluation takes."""
TUNING_SEED = 1000
FILE = "language.jsonl"
OURS: Mapping[str, type[Method]] = {"lngd": LNGD, "lngd-spectral": SpectralLNGD}
RIVALS = ("adamw", "muon-fp32", "normuon", "muon-cautious", "muon-hyperball", "soap", "shampoo", "psgd", "kl-shampoo", "kl-soap")


def _gpt(name: str, steps: int, title: str, model: Callable[[], nn.Module]) -> Task:
    task = replace(TABLE["stdlib-charlm"], name=name, title=title, model=model)
    return in_steps(task, steps)


def in_steps(task: Task, steps: int) -> Task:
    """With that many, and about `EVALUATIONS` evaluations."""
    return replace(task, steps=steps, epoch_steps=max(1, steps // EVALUATIONS))


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _gpt("gpt-240", 240, "GPT with 3 layers of width 128", TABLE["stdlib-charlm"].model),
        _gpt("gpt-6x256", 600, "GPT with 6 layers of width 256", partial(GPT, VOCABULARY, CONTEXT, 256, heads=8, layers=6)),
    )
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run.

    Attributes:
        rest: see `Setting`; None for an optimizer with one rate.
        held_out: evaluated on a part of the training samples, once.
        change: what is changed of the optimizer, by `build`; empty for itself.
    """

    task: Task
    optimizer: str
    lr: float
    rest: float | None
    seed: int
    held_out: bool = False
    change: str = ""
    build: Build | None = None

    @property
    def identity(self) -> Line:
        """With all defaults of a method of ours: a run that was made with others is another."""
        fields = {name: getattr(self, name) for name in ("optimizer", "change", "lr", "rest", "seed", "held_out")}
        fields["defaults"] = OPTIMIZERS[self.optimizer].fingerprint
        return {"task": self.task.name, "steps": self.task.total_steps, **fields}


class Runs(Ledger):
    """An archive of runs. Several processes may fill it at once, each with other optimizers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FILE, found=("curve", "loss", "seconds"), keeps=is_current, said=_said)

    def of(self, wanted: Wanted) -> Line:
        """Found, or else made."""
        return self.run(wanted.identity, partial(measured, wanted))


def measured(wanted: Wanted) -> Line:
    """Its evaluations as (step, loss, seconds of training until then), up to where it diverges if it does."""
    task, data = wanted.task, _data(wanted.task.name, wanted.held_out)
    if wanted.held_out:
        task = replace(task, epoch_steps=task.total_steps)
    build = wanted.build or OPTIMIZERS[wanted.optimizer].build

    def rated(model: nn.Module, setting: Setting) -> Optimizer:
        return build(model, replace(setting, rest=wanted.rest))

    spec = RunSpec(task, NAME, wanted.lr, wanted.seed)
    with patch.dict(OPTIMIZERS, {NAME: Competitor(NAME, rated, wanted.lr, 1.0)}):
        warm_up(spec, data)
        epochs = list(train(spec, data))
    seconds = [round(total, 3) for total in accumulate(epoch.seconds for epoch in epochs)]
    curve = [(epoch.step, epoch.eval_loss, spent) for epoch, spent in zip(epochs, seconds, strict=True) if not epoch.diverged]
    return {"curve": curve, "loss": epochs[-1].eval_loss, "seconds": seconds[-1]}


@cache
def _data(task: str, held_out: bool) -> Data:
    """Both evaluate on as many samples."""
    data = in_memory(TASKS[task].data(None)).first(TASKS[task].samples).evaluated_on(SAMPLES)
    return data.held_out() if held_out else data


def tuning(runs: Runs, task: Task, optimizer: str) -> dict[Point, float]:
    """The twelve trials of an optimizer."""

    def loss(point: Point) -> float:
        lr, rest = rates(optimizer, point)
        end = runs.of(Wanted(task=task, optimizer=optimizer, lr=lr, rest=rest, seed=TUNING_SEED, held_out=True))["loss"]
        return math.inf if end is None else float(end)

    return tuned(loss, two_rates=OPTIMIZERS[optimizer].two_rates)


def rates(optimizer: str, point: Point = (0, 0)) -> tuple[float, float | None]:
    """lr and `rest` of a point; by default the optimizer's own."""
    competitor, (rate, rest) = OPTIMIZERS[optimizer], point
    return rounded(competitor.customary * 2 ** (rate / 2)), rounded(2 ** (rest / 2)) if competitor.two_rates else None


def _said(line: Line) -> str:
    name = " ".join(filter(None, (line["optimizer"], line["change"])))
    rest = "" if line["rest"] is None else f" rest {line['rest']:g}"
    kind = "trial" if line["held_out"] else f"seed {line['seed']}"
    end = "diverged" if line["loss"] is None else f"{line['loss']:.4f}"
    return f"{line['task']} {name} lr {line['lr']:g}{rest} {kind}: {end}, {line['seconds']:.1f} s"
