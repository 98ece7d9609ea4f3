"""What has nothing to do with the gradient that is stepped leaves no trace: random models, loops and distractions.

A run with distractions equals the run without them, bit for bit: what was drawn for nothing, noise or labels, is drawn again
(`lngd.sampling.draws.Draws`). Models have norms, checkpointed parts and hooks of the user; gradients are accumulated over uneven
micro-batches; other optimizers take turns. `LNGD_DISTRACTIONS=400` sets the number of cases of each method.
"""

import copy
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

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
    rivals: dict[type, Optimizer] = field(default_factory=dict)
    """Other optimizers of the same model, since their first turn."""

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


def drops_a_batch_behind_the_versions_back(run: Training) -> None:
    """`.data` and NumPy write without a trace in the version of a tensor."""
    run.loss(3 * run.x).backward()
    for p in run.model.parameters():
        p.grad.data.zero_()
    run.loss(2 * run.x).backward()
    for p in run.model.parameters():
        p.grad.numpy()[...] = 0.0


def drops_a_batch_by_other_zeros(run: Training) -> None:
    """Another tensor in the gradient's place."""
    run.loss(3 * run.x).backward()
    for p in run.model.parameters():
        p.grad = torch.zeros_like(p)


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


def takes_many_gradients_at_once(run: Training) -> None:
    """Batched, as a vectorised Jacobian does it."""
    z = run.model(run.x)
    torch.autograd.grad(z, list(run.model.parameters()), torch.ones(2, *z.shape), is_grads_batched=True)


def looks_at_a_part(run: Training) -> None:
    """Features, gradients enabled."""
    nn.Sequential(*run.model)[:2](2 * run.x)


def drops_what_a_part_brought(run: Training) -> None:
    """Of an auxiliary loss."""
    nn.Sequential(*run.model)[:1](run.x).square().sum().backward()
    run.model.zero_grad()


def fails_in_its_forward(run: Training) -> None:
    """A batch of a wrong width."""
    with suppress(RuntimeError):
        run.model(torch.ones(2, 3))


def trains_a_copy(run: Training) -> None:
    """A copy has hooks that do nothing."""
    F.cross_entropy(copy.deepcopy(run.model)(run.x), run.y).backward()


def records_its_operations(run: Training) -> None:
    """As exports do."""
    make_fx(lambda x: run.model(x))(run.x)


def takes_turns(rival: type) -> Distraction:
    """With another optimizer on the same model, whose step is taken back."""

    def distraction(run: Training) -> None:
        other = run.rivals.get(rival)
        if other is None:
            other = run.rivals[rival] = rival(run.model.parameters() if rival is AdamW else run.model)
        before = [p.detach().clone() for p in run.model.parameters()]
        run.loss(2 * run.x).backward()
        other.step()
        other.zero_grad()
        with torch.no_grad():
            for p, old in zip(run.model.parameters(), before, strict=True):
                p.copy_(old)

    distraction.__name__ = f"takes_turns_with_{rival.__name__}"
    return distraction


DROPPED = (
    *(drops_a_batch, drops_a_batch_by_the_model, drops_a_batch_by_hand, drops_a_batch_behind_the_versions_back),
    *(drops_a_batch_by_other_zeros, drops_a_batch_that_is_not_finite, drops_what_a_part_brought, trains_what_is_before),
    *(takes_turns(rival) for rival in (LNGD, KFAC, AdamW)),
)
LOOKS = (looks, looks_in_evaluation_mode, looks_at_a_part, fails_in_its_forward, trains_a_copy)
BY_GRAD = (logs_a_gradient, attacks, attacks_by_backward, penalises_with_weight_zero)
"""Which reentrant checkpointing forbids."""
TRANSFORMED = (is_differentiated_by_functions, takes_many_gradients_at_once, records_its_operations)
"""Which no checkpointing takes."""
BEFORE = (*DROPPED, *LOOKS, *BY_GRAD, *TRANSFORMED)
"""They leave no gradient."""


class Chain(nn.Sequential):
    """Layers in a row, of which activation checkpointing runs a part."""

    part: tuple[int, int] = (0, 0)
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        start, end = self.part
        layers = list(self)
        x = nn.Sequential(*layers[:start])(x)
        if end > start:
            x = checkpoint(nn.Sequential(*layers[start:end]), x, use_reentrant=self.reentrant)
        return nn.Sequential(*layers[end:])(x)


def build(
    widths: list[int], activation: type[nn.Module], *, norm: bool, checkpointing: str = "", part: tuple[float, float] = (0, 0)
) -> Chain:
    """`part` in shares of the layers; a first layer is left out of it, whose input needs no gradient."""
    torch.manual_seed(7)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((4, *widths), (*widths, 3), strict=True):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm else []), activation()]
    model = Chain(*layers[: -2 if norm else -1])
    if checkpointing:
        start, end = sorted(1 + round(share * (len(model) - 1)) for share in part)
        model.part, model.reentrant = (start, end), checkpointing == "reentrant"
    return model


def reads_gradients(_module: nn.Module, _args: tuple, output: Tensor) -> None:
    """As loggers do."""
    if output.requires_grad:
        output.register_hook(lambda _gradient: None)


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "triples the output": lambda layer: layer.register_forward_hook(lambda _module, _args, output: 3 * output),
    "triples the input": lambda layer: layer.register_forward_pre_hook(lambda _module, args: (3 * args[0],)),
    "comes first": lambda layer: layer.register_forward_hook(lambda _module, _args, output: output + 1, prepend=True),
}
UNCHANGED: dict[str, Callable[[nn.Module], object]] = {
    "returns the output": lambda layer: layer.register_forward_hook(lambda _module, _args, output: output, prepend=True),
    "returns the input": lambda layer: layer.register_forward_pre_hook(lambda _module, args: args),
    "reads gradients": lambda layer: layer.register_forward_hook(reads_gradients),
}


@dataclass
class Loop:
    """How a run goes, with and without distractions."""

    steps: int
    every: int
    sizes: list[int]
    """Samples of each micro-batch of a step."""
    options: dict[str, Any] = field(default_factory=dict)
    hook: str = ""
    hook_is_late: bool = False
    """Whether it is put on after the optimizer was built."""
    on: int = 0
    """The number of the linear layer that it is on."""

    def hooked(self, model: nn.Module, hooks: dict[str, Callable[[nn.Module], object]], name: str) -> None:
        linear = [layer for layer in model if isinstance(layer, nn.Linear)]
        if name:
            hooks[name](linear[self.on % len(linear)])


Plan = dict[tuple[int, int], list[Distraction]]


def train(method: type, shape: dict, loop: Loop, plan: Plan, unchanged: str = "") -> dict:
    """Steps of some micro-batches each; at (step, place) come the planned distractions, `place` counted in micro-batches.

    Args:
        method: the optimizer's class.
        shape: of the model, as `build` takes it.
        loop: of the run.
        plan: the distractions.
        unchanged: a hook that changes nothing.
    """
    model, late = build(**shape), loop.hook_is_late
    loop.hooked(model, HOOKS, "" if late else loop.hook)
    optimizer = method(model, schedule=loop.every, generator=torch.Generator().manual_seed(3), **loop.options)
    loop.hooked(model, HOOKS, loop.hook if late else "")
    loop.hooked(model, UNCHANGED, unchanged)
    other, rivals = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1), {}
    data = torch.Generator().manual_seed(11)
    for step in range(loop.steps):
        optimizer.zero_grad()
        for place, size in enumerate(loop.sizes):
            x, y = torch.randn(size, 4, generator=data), torch.randint(3, (size,), generator=data)
            run = Training(model, optimizer, other, x, y, rivals)
            for distraction in plan.get((step, place), ()):
                distraction(run)
            (F.cross_entropy(model(x), y, reduction="sum") / sum(loop.sizes)).backward()
        for distraction in plan.get((step, len(loop.sizes)), ()):
            distraction(run)
        optimizer.step()
    return snapshot(model, optimizer)


@st.composite
def plans(draw: st.DrawFn, loop: Loop, checkpointing: str) -> Plan:
    """What comes before a step's first gradient may drop gradients, what comes later may not."""
    spot = st.tuples(st.integers(0, loop.steps - 1), st.integers(0, len(loop.sizes)))
    places = draw(st.lists(spot, min_size=1, max_size=4, unique=True))
    kept = (*LOOKS, *({"reentrant": ()}.get(checkpointing, BY_GRAD)), *(() if checkpointing else TRANSFORMED))
    return {
        (step, place): draw(st.lists(st.sampled_from(kept if place else (*DROPPED, *kept)), min_size=1, max_size=2))
        for step, place in places
    }


def cases(name: str) -> int:
    return CASES or (12 if name in FAST else 30)


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_distractions_leave_no_trace(name):
    @settings(OPTIONS, max_examples=cases(name))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        shape = {
            "widths": data.draw(st.lists(st.integers(2, 6), min_size=0, max_size=2)),
            "activation": data.draw(st.sampled_from([nn.Tanh, nn.ReLU])),
            "norm": data.draw(st.booleans()),
            "checkpointing": data.draw(st.sampled_from(["", "", "reentrant", "not reentrant"])),
            "part": data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))),
        }
        fisher = data.draw(st.sampled_from(["", "layerwise", "sampled", "empirical"]))
        loop = Loop(
            steps=data.draw(st.integers(2, 5)),
            every=data.draw(st.integers(1, 3)),
            sizes=data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3).filter(any)),
            options={"fisher": fisher} if fisher else {},
            hook=data.draw(st.sampled_from(["", "", *HOOKS])),
            hook_is_late=data.draw(st.booleans()),
            on=data.draw(st.integers(0, 2)),
        )
        plan = data.draw(plans(loop, shape["checkpointing"]))
        unchanged = data.draw(st.sampled_from(["", *UNCHANGED]))
        alone = train(METHODS[name], shape, loop, {})
        assert differences(alone, train(METHODS[name], shape, loop, plan, unchanged)) == []

    holds()


@pytest.mark.parametrize("distraction", BEFORE, ids=lambda distraction: distraction.__name__)
@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_each_distraction_before_a_measuring_step_leaves_no_trace(name, distraction):
    shape = {"widths": [5], "activation": nn.Tanh, "norm": True}
    loop, plan = Loop(steps=4, every=1, sizes=[6, 6]), {(1, 0): [distraction], (3, 0): [distraction]}
    alone, distracted = (train(METHODS[name], shape, loop, each) for each in ({}, plan))
    assert differences(alone, distracted) == []


@pytest.mark.parametrize("distraction", [drops_a_batch_behind_the_versions_back, drops_a_batch_by_other_zeros])
@pytest.mark.parametrize("name", FAST)
def test_a_dropped_batch_on_which_a_layer_was_dead_leaves_no_trace(name, distraction):
    """Its gradient was zero as it came, and is zero now: only the other layers' tell that it was dropped."""
    shape = {"widths": [2], "activation": nn.ReLU, "norm": False, "checkpointing": "", "part": (0.0, 0.0)}
    loop, plan = Loop(steps=2, every=1, sizes=[1]), {(0, 0): [distraction]}
    alone, distracted = (train(METHODS[name], shape, loop, each) for each in ({}, plan))
    assert differences(alone, distracted) == []
