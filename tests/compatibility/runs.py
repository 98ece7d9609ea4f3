"""Short training runs and what is asserted of them."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd.methods import Method, SpectralLNGD
from reference import batch, differences, snapshot, through_a_file

SINGLE, DOUBLE = torch.float32, torch.float64
OFTEN = {"schedule": 2}
"""A schedule with steps of every kind among the first three."""
Data = tuple[Tensor, Tensor]


def inputs(n: int, *shape: int) -> Tensor:
    """In float64."""
    return batch(n, *shape)[0]


def learnable(n: int, *shape: int, dtype: torch.dtype = SINGLE) -> Data:
    """The label is the largest of a sample's first three numbers."""
    x, _ = batch(n, *shape, dtype=dtype)
    return x, x.flatten(1)[:, :3].argmax(1)


def plain() -> nn.Sequential:
    """Curvature and fallback; the same weights at every call."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def seeded(generator: torch.Generator | None = None) -> torch.Generator:
    """A generator at the start of its sequence: a new one, or this one again."""
    return (generator or torch.Generator()).manual_seed(7)


@dataclass
class Run:
    """A model in training, with the loss of every step."""

    model: nn.Module
    optimizer: Method
    losses: list[Tensor] = field(default_factory=list)
    generator: torch.Generator | None = None
    """The optimizer's own randomness."""

    def step(self, x: Any, y: Tensor, forward: Callable[[Any], Tensor] | None = None) -> Tensor:
        """The loop of every user."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy((forward or self.model)(x), y)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())
        return loss.detach()

    def steps(self, data: Iterable[Data]) -> "Run":
        for x, y in data:
            self.step(x, y)
        return self

    def snapshot(self) -> dict[str, Tensor]:
        """Every tensor of the run, losses included."""
        return snapshot(self.model, self.optimizer) | {f"loss {k}": loss for k, loss in enumerate(self.losses)}


LONGER: dict[type[Method], dict[str, Any]] = {SpectralLNGD: {"lr": 0.05}}
"""A step of fixed length needs a longer one to show in a few steps."""


def start(method: type[Method], model: nn.Module, **options: Any) -> Run:
    """Before the first step."""
    optimizer = method(model, generator=seeded(), **{**LONGER.get(method, {}), **options})
    return Run(model, optimizer, generator=optimizer._generator)


def default(method: type[Method], argument: str) -> Any:
    """What a method does by itself; None if it has no such argument."""
    found = inspect.signature(method).parameters.get(argument)
    return None if found is None else found.default


def batches(steps: int, *shape: int, n: int = 16, dtype: torch.dtype = SINGLE) -> list[Data]:
    """A different batch for each step."""
    return [batch(n, *shape, seed=step, dtype=dtype) for step in range(steps)]


def assert_same(*runs: Run, ignoring: Sequence[str] = ()) -> None:
    """Bit-equal in every tensor: losses, weights, statistics, inverses, averages, generator."""
    first, *others = [run.snapshot() for run in runs]
    for other in others:
        assert differences(first, other, ignoring=ignoring) == []


def assert_trains(
    method: type[Method], model: nn.Module, x: Any, y: Tensor, *, curved: set[str] | None = None, steps: int = 8, **options: Any
) -> Run:
    """Every trained parameter moves, no other does, all stay finite, no step is skipped and the loss falls.

    Args:
        method: to train with.
        model: to train.
        x, y: the one batch.
        curved: the layers that must have curvature, measured and inverted.
        steps: on that batch.
        options: of the method.
    """
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = start(method, model, **{"warmup": 3, **options}).steps([(x, y)] * steps)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert_healthy(run, skipped=0)
    assert torch.stack(run.losses[-3:]).mean() < 0.97 * torch.stack(run.losses[:3]).mean()
    if curved is not None:
        assert {name for name, block in run.optimizer.blocks.items() if block.ready} == curved
    return run


def assert_resumes(run: Run, fresh: Run, *data: Data, through: Callable[[dict], dict] = through_a_file) -> None:
    """A fresh model and optimizer go on from a run's checkpoint as the run itself does."""
    weights, state = copy.deepcopy(run.model.state_dict()), through(run.optimizer.state_dict())
    fresh.model.load_state_dict(weights)
    fresh.optimizer.load_state_dict(state)
    run.losses, fresh.losses = [], []
    assert_same(run.steps(data * 4), fresh.steps(data * 4))


def assert_healthy(run: Run, *, skipped: int | None = None) -> None:
    """All numbers are finite; so many steps were skipped."""
    assert [name for name, t in snapshot(run.model, run.optimizer).items() if not t.isfinite().all()] == []
    assert skipped is None or run.optimizer.stats()["skipped"] == skipped


def changed(before: dict[str, Tensor], run: Run, ignoring: Sequence[str] = ()) -> list[str]:
    """What is not as it was."""
    return differences(before, run.snapshot(), ignoring=ignoring)


def weights(model: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten().to(DOUBLE) for p in model.parameters()])


def apart(one: nn.Module, two: nn.Module, origin: nn.Module) -> float:
    """How far two trained models are apart, as a share of the way the second has gone from `origin`."""
    return ((weights(one) - weights(two)).norm() / (weights(two) - weights(origin)).norm()).item()


def copied(model: nn.Module) -> nn.Module:
    """The model before training; hooks are not wanted on it."""
    return copy.deepcopy(model)


def hooks(model: nn.Module) -> int:
    """How many hooks are on a model's modules and parameters."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    on_parameters = sum(
        len(getattr(p, kind) or ()) for p in model.parameters() for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")
    )
    return on_modules + on_parameters
