"""How far each step of a race goes: the numbers in `docs/results/paper/README.md` on K-FAC's trust region.

    python benchmarks/step_lengths.py cifar10-resnet18 kfac --at 6 51 101 161 191

Seed 0 at the task's own rate, damping and schedule. Prints, after each step asked for, lr, the median over layers of lr · α
(α: `optimizer.rates`; nothing for optimizers without) and of ‖ΔW‖ / ‖W‖.
"""

import argparse
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor

from lngd.optimizer import NaturalGradient
from lngd_bench.tasks import TASKS
from lngd_bench.training.race import plan
from lngd_bench.training.train import Learner, Run


def weights(learner: Learner) -> Mapping[str, Tensor]:
    """Copies of all matrices and kernels."""
    return {name: p.detach().clone() for name, p in learner.model.named_parameters() if p.ndim > 1}


def shown(learner: Learner, step: int, before: Mapping[str, Tensor], lr: float) -> str:
    """A line of the table; `before` and `lr` are of the moment before the step."""
    after = weights(learner)
    moved = median(float((after[name] - old).norm() / old.norm()) for name, old in before.items())
    optimizer = learner.optimizer
    rates = [float(rate) for rate in optimizer.rates.values()] if isinstance(optimizer, NaturalGradient) else []
    return f"{step:>6}  {lr:>8.2g}  {f'{lr * median(rates):.2g}' if rates else '–':>8}  {moved:>8.2g}"


def main() -> None:
    """The table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("optimizer")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 10, 100], help="steps, counted from 1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    (spec,) = plan([TASKS[given.task]], [given.optimizer], [0])
    run = Run(spec, spec.task.data(None).first(spec.task.samples))
    learner = run.learner
    before, lr = weights(learner), learner.optimizer.param_groups[0]["lr"]

    def watch(step: int) -> None:
        nonlocal before, lr
        if step in given.at:
            print(shown(learner, step, before, lr), flush=True)
        if step + 1 in given.at:
            before, lr = weights(learner), learner.optimizer.param_groups[0]["lr"]

    learner.watch = watch
    print("  step        lr    lr · α  ‖ΔW‖/‖W‖")
    while learner.steps_done < max(given.at):
        run.epoch()


if __name__ == "__main__":
    main()
