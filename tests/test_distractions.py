"""What has nothing to do with the gradient that is stepped leaves no trace: random models, loops and distractions.

A run with distractions equals the run without them, bit for bit: what was drawn for nothing, noise or labels, is drawn again
(`lngd.sampling.draws.Draws`). `LNGD_DISTRACTIONS=400` sets the number of cases of each method.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD
from reference import differences, snapshot

METHODS = {method.__name__: method for method in (LNGD, SpectralLNGD, KFAC, EKFAC, TKFAC, NGPlus, THOR, LNGDLr, LNGDSample)}
FAST = ("LNGD", "SpectralLNGD", "KFAC")
CASES = int(os.environ.get("LNGD_DISTRACTIONS", "0"))
"""How many cases of each method, where it is not the tier that says so."""
OPTIONS = settings(deadline=None, derandomize=not CASES, suppress_health_check=list(HealthCheck), database=None)


@dataclass
class Training:
    """A run, to whose steps distractions may come."""

    model: nn.Module
    optimizer: Optimizer
    other: Optimizer
    x: Tensor
    y: Tensor

    def loss(self, x: Tensor | None = None) -> Tensor:
        return F.cross_entropy(self.model(self.x if x is None else x), self.y)


Distraction = Callable[[Training], None]


def logs_a_gradient(run: Training) -> None:
    """As for a norm."""
    torch.autograd.grad(run.loss(), list(run.model.parameters()))


def attacks(run: Training) -> None:
    """A step of projected gradient descent, which the training does not use here."""
    x = run.x.clone().requires_grad_()
    torch.autograd.grad(run.loss(x), x)


def attacks_by_backward(run: Training) -> None:
    """The same, as `backward(inputs=…)` does it."""
    x = run.x.clone().requires_grad_()
    run.loss(x).backward(inputs=[x])


def drops_a_batch(run: Training) -> None:
    """The optimizer's own zero_grad."""
    run.loss(3 * run.x).backward()
    run.optimizer.zero_grad()


def drops_a_batch_by_the_model(run: Training) -> None:
    """The model's, which tells the optimizer nothing."""
    run.loss(3 * run.x).backward()
    run.model.zero_grad()


def drops_a_batch_by_hand(run: Training) -> None:
    """In place, as old loops do; None is what was there before."""
    run.loss(3 * run.x).backward()
    for p in run.model.parameters():
        p.grad.zero_()
    run.loss(2 * run.x).backward()
    for p in run.model.parameters():
        p.grad = None


def drops_a_batch_that_is_not_finite(run: Training) -> None:
    """As after a look at the loss."""
    run.loss(run.x * torch.inf).backward()
    run.model.zero_grad()


def looks(run: Training) -> None:
    """A forward without a backward pass, gradients enabled."""
    run.model(run.x)


def looks_in_evaluation_mode(run: Training) -> None:
    """A validation that forgot no_grad."""
    run.model.eval()
    run.model(2 * run.x[:3])
    run.model.train()


def penalises_with_weight_zero(run: Training) -> None:
    """A gradient penalty that is computed and thrown away."""
    x = run.x.clone().requires_grad_()
    (g,) = torch.autograd.grad(run.loss(x), x, create_graph=True)
    torch.autograd.grad(g.square().sum(), list(run.model.parameters()), allow_unused=True)


def trains_what_is_before(run: Training) -> None:
    """Another optimizer's turn, through this model, as of a generator through a discriminator."""
    x = nn.Parameter(run.x.clone())
    run.loss(x).backward()
    run.other.zero_grad()
    run.model.zero_grad()


def is_differentiated_by_functions(run: Training) -> None:
    """torch.func, as for the trace of a Hessian."""
    parameters = {name: p.detach() for name, p in run.model.named_parameters()}
    torch.func.grad(lambda ps: F.cross_entropy(torch.func.functional_call(run.model, ps, run.x), run.y))(parameters)


BEFORE = (
    *(logs_a_gradient, attacks, attacks_by_backward, drops_a_batch, drops_a_batch_by_the_model, drops_a_batch_by_hand),
    *(drops_a_batch_that_is_not_finite, looks, looks_in_evaluation_mode, penalises_with_weight_zero, trains_what_is_before),
    is_differentiated_by_functions,
)
"""They leave no gradient."""
BETWEEN = (logs_a_gradient, attacks, attacks_by_backward, looks, looks_in_evaluation_mode, penalises_with_weight_zero)
"""They leave the gradient that is there."""


def build(widths: list[int], activation: type[nn.Module], *, norm: bool) -> nn.Sequential:
    torch.manual_seed(7)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((4, *widths), (*widths, 3), strict=True):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm else []), activation()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def train(method: type, shape: dict, micro: int, steps: int, every: int, plan: dict[tuple[int, int], list[Distraction]]) -> dict:
    """Steps of some micro-batches each; at (step, place) come the planned distractions, `place` counted in micro-batches."""
    model = build(**shape)
    optimizer = method(model, schedule=every, generator=torch.Generator().manual_seed(3))
    other = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    data = torch.Generator().manual_seed(11)
    for step in range(steps):
        optimizer.zero_grad()
        for place in range(micro):
            x, y = torch.randn(6, 4, generator=data), torch.randint(3, (6,), generator=data)
            run = Training(model, optimizer, other, x, y)
            for distraction in plan.get((step, place), ()):
                distraction(run)
            (run.loss() / micro).backward()
        for distraction in plan.get((step, micro), ()):
            distraction(run)
        optimizer.step()
    return snapshot(model, optimizer)


@st.composite
def plans(draw: st.DrawFn, micro: int, steps: int) -> dict[tuple[int, int], list[Distraction]]:
    """What comes before a step's first gradient may drop gradients, what comes later may not."""
    places = draw(st.lists(st.tuples(st.integers(0, steps - 1), st.integers(0, micro)), min_size=1, max_size=4, unique=True))
    return {
        (step, place): draw(st.lists(st.sampled_from(BETWEEN if place else BEFORE), min_size=1, max_size=2))
        for step, place in places
    }


def cases(name: str) -> int:
    return CASES or (12 if name in FAST else 30)


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_distractions_leave_no_trace(name):
    @settings(
        max_examples=cases(name), deadline=None, derandomize=not CASES, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        shape = {
            "widths": data.draw(st.lists(st.integers(2, 6), min_size=0, max_size=2)),
            "activation": data.draw(st.sampled_from([nn.Tanh, nn.ReLU])),
            "norm": data.draw(st.booleans()),
        }
        micro, steps, every = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
        plan = data.draw(plans(micro, steps))
        alone, distracted = (train(METHODS[name], shape, micro, steps, every, each) for each in ({}, plan))
        assert differences(alone, distracted) == []

    holds()


@pytest.mark.parametrize("distraction", BEFORE, ids=lambda distraction: distraction.__name__)
@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_each_distraction_before_a_measuring_step_leaves_no_trace(name, distraction):
    shape = {"widths": [5], "activation": nn.Tanh, "norm": True}
    plan = {(1, 0): [distraction], (3, 0): [distraction]}
    alone, distracted = (train(METHODS[name], shape, 2, 4, 1, each) for each in ({}, plan))
    assert differences(alone, distracted) == []
