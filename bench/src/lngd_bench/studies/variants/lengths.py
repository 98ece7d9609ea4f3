"""How far each step of a race goes, at seed 0 and the task's own settings: K-FAC's trust region in `results/paper.md`."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from torch import Tensor

from lngd.optimizer import NaturalGradient
from lngd_bench.tasks import TASKS
from lngd_bench.training.race import plan
from lngd_bench.training.train import Learner, Run

HEADINGS = ("step", "lr", "lr · α", "‖ΔW‖/‖W‖")


def rows(task: str, optimizer: str, at: Sequence[int]) -> Iterator[list[str]]:
    """After each step asked for: lr, the medians over layers of lr · α (none for optimizers without) and of ‖ΔW‖ / ‖W‖."""
    (spec,) = plan([TASKS[task]], [optimizer], [0])
    run = Run(spec, spec.task.data(None).first(spec.task.samples))
    learner, found = run.learner, []
    before, lr = _weights(learner), learner.optimizer.param_groups[0]["lr"]

    def watch(step: int) -> None:
        nonlocal before, lr
        if step in at:
            found.append(_row(learner, step, before, lr))
        if step + 1 in at:
            before, lr = _weights(learner), learner.optimizer.param_groups[0]["lr"]

    learner.watch = watch
    while learner.steps_done < max(at):
        run.epoch()
        yield from found
        found.clear()


def _weights(learner: Learner) -> Mapping[str, Tensor]:
    """Copies of all matrices and kernels."""
    return {name: p.detach().clone() for name, p in learner.model.named_parameters() if p.ndim > 1}


def _row(learner: Learner, step: int, before: Mapping[str, Tensor], lr: float) -> list[str]:
    """`before` and `lr` are of the moment before the step."""
    after, optimizer = _weights(learner), learner.optimizer
    moved = median(float((after[name] - old).norm() / old.norm()) for name, old in before.items())
    rates = [float(rate) for rate in optimizer.rates.values()] if isinstance(optimizer, NaturalGradient) else []
    return [str(step), f"{lr:.2g}", f"{lr * median(rates):.2g}" if rates else "–", f"{moved:.2g}"]
