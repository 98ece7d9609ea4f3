"""Rows: what training loops do around a model."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from compatibility.runs import (
    DOUBLE,
    OFTEN,
    Run,
    apart,
    assert_healthy,
    assert_same,
    batches,
    default,
    learnable,
    plain,
    seeded,
    start,
    weights,
)
from compatibility.table import group
from lngd import Constant, FisherType, InvariantRate, LayerwiseRate, Schedule
from lngd.methods import Method

stack = group("Training stack")


@stack("`no_grad` forward in train mode", "ignored: bit-equal to a run without it")
def no_grad_forward(method: type[Method]) -> None:
    runs = []
    for disturbed in (False, True):
        run = start(method, plain(), **OFTEN)

        def look(x: Tensor, model: nn.Module = run.model, disturbed: bool = disturbed) -> None:
            if disturbed:
                with torch.no_grad():
                    model(3 * x[:5])

        for x, y in batches(4, 4):
            run.optimizer.zero_grad()
            look(x)
            loss = F.cross_entropy(run.model(x), y)
            look(x)
            loss.backward()
            look(x)
            run.optimizer.step()
        runs.append(run)
    assert_same(*runs)


@stack(
    "Gradient clipping",
    "constant and layer-wise step size: c times the gradient is c times the step; a step of fixed singular values stays as it is",
)
def gradient_clipping(method: type[Method]) -> None:
    for step_size in (Constant(), LayerwiseRate(mu=0.0)):
        options = {"step_size": step_size} if default(method, "step_size") else {}
        (whole, _), (clipped, share) = (clipped_step(method, norm, **options) for norm in (1e6, 1e-2))
        assert share < 0.1
        share = 1.0 if method.spectral and step_size == Constant() else share
        torch.testing.assert_close(clipped, share * whole, rtol=1e-3, atol=1e-8)


def clipped_step(method: type[Method], norm: float, **options: Any) -> tuple[Tensor, float]:
    """The first step with gradients clipped to a norm, and what share that leaves of them."""
    model, (x, y) = curved(), learnable(16, 4, dtype=DOUBLE)
    origin = weights(model)
    optimizer = method(model, lr=0.1, warmup=0, generator=seeded(), **options)
    F.cross_entropy(model(x), y).backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), norm)
    kept = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), kept, strict=True))
    return weights(model) - origin, min(1.0, norm / total.item())


def curved() -> nn.Module:
    """Without a fallback, in float64."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@stack("Gradient clipping, many steps", "with every gradient clipped to norm 0.1 the loss falls, nothing is skipped")
def clipped_training(method: type[Method]) -> None:
    model, (x, y) = plain(), learnable(32, 4)
    run = start(method, model, warmup=0)
    for _ in range(8):
        run.optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        run.optimizer.step()
        run.losses.append(loss.detach())
    assert_healthy(run, skipped=0)
    assert run.losses[-1] < 0.98 * run.losses[0]


@stack(
    "Gradient accumulation",
    "four micro-batches of different sizes are one batch: weights and statistics agree to 1e-8 in float64",
)
def accumulation(method: type[Method]) -> None:
    runs = []
    whole = {"step_size": InvariantRate(samples=None)} if default(method, "step_size") == "invariant" else {}
    for sizes in ((32,), (4, 6, 10, 12)):
        run = start(method, curved(), fisher=FisherType.EMPIRICAL, **OFTEN, **whole)
        for x, y in batches(3, 4, n=32, dtype=DOUBLE):
            run.optimizer.zero_grad()
            for part, labels in zip(x.split(sizes), y.split(sizes), strict=True):
                (F.cross_entropy(run.model(part), labels) * len(part) / 32).backward()
            run.optimizer.step()
        runs.append(run.snapshot())
    assert runs[0].keys() == runs[1].keys()
    for name, expected in runs[0].items():
        torch.testing.assert_close(runs[1][name], expected, rtol=1e-8, atol=1e-10, msg=name)


@stack(
    "Gradient accumulation with the method's own gradients",
    "four micro-batches count as their sum of samples, once: the loss falls",
)
def accumulated_training(method: type[Method]) -> None:
    (x, y), run = learnable(32, 4), start(method, plain(), warmup=3, **OFTEN)
    for _ in range(6):
        run.optimizer.zero_grad()
        for part, labels in zip(x.chunk(4), y.chunk(4), strict=True):
            (F.cross_entropy(run.model(part), labels) / 4).backward()
        run.optimizer.step()
        run.losses.append(F.cross_entropy(run.model.eval()(x), y).detach())
        run.model.train()
    assert {block.updates for block in run.optimizer.blocks.values()} == {4}
    assert run.losses[-1] < 0.97 * run.losses[0]
    assert_healthy(run, skipped=0)


@contextmanager
def one_process() -> Iterator[None]:
    """A gloo process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


@stack("DDP wrapper", "one process (gloo): bit-equal to the run without the wrapper; two: `tests/optimizer/test_processes.py`")
def ddp_wrapper(method: type[Method]) -> None:
    bare = start(method, plain(), **OFTEN).steps(batches(4, 4))
    with one_process():
        model = plain()
        wrapped = start(method, DistributedDataParallel(model), **OFTEN).steps(batches(4, 4))
        wrapped.model = model
        assert_same(bare, wrapped)


@stack("`torch.compile`", "backend aot_eager: near the eager run (1e-4 of the way), a shorter last batch included")
def compiled(method: type[Method]) -> None:
    torch._dynamo.reset()
    data = [*batches(3, 4), *batches(1, 4, n=5)]
    eager = start(method, curved().float(), **OFTEN).steps(data)
    model = curved().float()
    wrapped = torch.compile(model, backend="aot_eager", dynamic=True)
    assert_near(start(method, wrapped, **OFTEN).steps(data), eager)
    assert apart(model, eager.model, curved().float()) < 1e-4


def assert_near(run: Run, other: Run) -> None:
    torch.testing.assert_close(torch.stack(run.losses), torch.stack(other.losses), rtol=1e-4, atol=1e-5)
    assert [b.updates for b in run.optimizer.blocks.values()] == [b.updates for b in other.optimizer.blocks.values()]


@stack(
    "Last batch shorter than the others",
    "measured like any other: sizes 16, 16, 5 over and over, the loss falls, nothing is skipped",
)
def short_last_batch(method: type[Method]) -> None:
    x, y = learnable(37, 4)
    epoch = list(zip(x.split(16), y.split(16), strict=True))
    run = start(method, plain(), warmup=3, schedule=Schedule(curvature_every=1)).steps(epoch * 3)
    assert_healthy(run, skipped=0)
    assert torch.stack(run.losses[-3:]).mean() < 0.97 * torch.stack(run.losses[:3]).mean()
    assert {block.updates for block in run.optimizer.blocks.values()} == {len(run.losses)}


@stack("Learning-rate scheduler", "bit-equal to a run without it while its factor is 1; nothing moves once it is 0")
def scheduler(method: type[Method]) -> None:
    runs = [start(method, plain(), weight_decay=0.1) for _ in range(2)]
    schedule = torch.optim.lr_scheduler.LambdaLR(runs[1].optimizer, lambda step: float(step < 3))
    for x, y in batches(3, 4):
        assert torch.equal(*(run.step(x, y) for run in runs))
        schedule.step()
    before = weights(runs[1].model)
    assert torch.equal(before, weights(runs[0].model))
    runs[1].steps(batches(2, 4))
    assert torch.equal(before, weights(runs[1].model))


@stack("`zero_grad()` between forward and backward", "bit-equal to `zero_grad()` before the forward")
def zero_grad_in_between(method: type[Method]) -> None:
    usual, run = (start(method, plain(), **OFTEN) for _ in range(2))
    for x, y in batches(4, 4):
        usual.step(x, y)
        loss = F.cross_entropy(run.model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.losses.append(loss.detach())
    assert_same(usual, run)


@stack("Gradients that `zero_grad()` drops", "what was measured with them is dropped too: bit-equal to a run that never had them")
def dropped_gradients(method: type[Method]) -> None:
    runs = []
    for dropped in (False, True):
        run = start(method, plain(), **OFTEN)
        for x, y in batches(4, 4):
            state = run.generator.get_state()
            if dropped:
                F.cross_entropy(run.model(3 * x[:5]), y[:5]).backward()
            run.optimizer.zero_grad()
            run.generator.set_state(state)
            run.step(x, y)
        runs.append(run)
    assert_same(*runs)


@stack(
    "OneCycleLR with one number",
    "the layers with curvature see its lr, AdamW's part moves as torch's AdamW at lr·adamw_lr_ratio does (float64, 1e-12)",
)
def one_cycle(method: type[Method]) -> None:
    run = start(method, plain().double(), adamw_lr_ratio=0.25, warmup=0)
    norm, twin = run.model[1], copy.deepcopy(run.model[1])
    reference = torch.optim.AdamW(twin.parameters(), weight_decay=0.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.08, total_steps=6)
    its_own = torch.optim.lr_scheduler.OneCycleLR(reference, 0.02, total_steps=6, cycle_momentum=False)
    for x, y in batches(5, 4, dtype=DOUBLE):
        before = run.model[0].weight.detach().clone()
        run.step(x, y)
        for p, q in zip(norm.parameters(), twin.parameters(), strict=True):
            q.grad = p.grad.clone()
        reference.step()
        for p, q in zip(norm.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
        assert not torch.equal(run.model[0].weight, before)
        cycle.step()
        its_own.step()
    assert {group["lr"] for group in run.optimizer.param_groups} == {*cycle.get_last_lr()}


@stack(
    "Parameters unfrozen later",
    "bit-equal to before while frozen; from then on they get curvature and move, the loss falls, no warning",
)
def unfrozen_later(method: type[Method]) -> None:
    model, data = plain(), learnable(32, 4)
    late = [p.requires_grad_(False) for p in (*model[0].parameters(), *model[1].parameters())]
    before = [p.detach().clone() for p in late]
    run = start(method, model, warmup=3, **OFTEN).steps([data] * 3)
    assert all(torch.equal(p, b) for p, b in zip(late, before, strict=True))
    for p in late:
        p.requires_grad_()
    run.steps([data] * 8)
    assert not any(torch.equal(p, b) for p, b in zip(late, before, strict=True))
    assert {name for name, block in run.optimizer.blocks.items() if block.ready} == {"0", "3", "5"}
    assert run.losses[-1] < 0.97 * run.losses[3]
    assert_healthy(run, skipped=0)


@stack(
    "`model.to(torch.float64)` after construction",
    "before the first step: bit-equal to a float64 model; later: weights and statistics are float64, the loss falls",
)
def to_double(method: type[Method]) -> None:
    early, whole = (start(method, model, **OFTEN) for model in (plain(), plain().double()))
    early.model.to(DOUBLE)
    assert_same(*(run.steps(batches(3, 4, dtype=DOUBLE)) for run in (early, whole)))
    x, y = learnable(32, 4)
    run = start(method, plain(), warmup=3, **OFTEN).steps([(x, y)] * 3)
    run.model.to(DOUBLE)
    run.steps([(x.double(), y)] * 8)
    kept = [t for name, t in run.snapshot().items() if name.startswith(("model.", "optimizer.state.")) and t.dim()]
    assert {t.dtype for t in kept if t.is_floating_point()} == {DOUBLE}
    assert run.losses[-1] < 0.97 * run.losses[3]
    assert_healthy(run, skipped=0)


@stack("Two models in two threads", "each bit-equal to training alone")
def two_threads(method: type[Method]) -> None:
    alone = [start(method, model, **OFTEN).steps(batches(6, 4)) for model in (plain(), curved().float())]
    together = [start(method, model, **OFTEN) for model in (plain(), curved().float())]
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run.steps, batches(6, 4)) for run in together]:
            done.result()
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


@stack("`step(closure)`", "bit-equal to backward and `step()`, and returns the closure's loss")
def step_with_closure(method: type[Method]) -> None:
    plainly, run = (start(method, plain(), **OFTEN) for _ in range(2))
    for x, y in batches(3, 4):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            run.optimizer.zero_grad()
            loss = F.cross_entropy(run.model(x), y)
            loss.backward()
            return loss

        run.losses.append(run.optimizer.step(closure).detach())
        plainly.step(x, y)
    assert_same(plainly, run)


class Returning(nn.Module):
    """A model that packs its logits."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.pack = plain(), pack

    def forward(self, *, inputs: Tensor) -> Any:
        return self.pack(self.body(inputs))


PACKED: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = [
    (lambda z: z, lambda out: out),
    (lambda z: {"logits": z, "hidden": None}, lambda out: out["logits"]),
    (lambda z: (z, z.detach().mean()), lambda out: out[0]),
    (lambda z: SimpleNamespace(logits=z), lambda out: out.logits),
]


@stack("Keyword inputs; a dict, a tuple or an object with `.logits` as output", "bit-equal to the model that returns the logits")
def packed_outputs(method: type[Method]) -> None:
    runs = []
    for pack, unpack in PACKED:
        run = start(method, Returning(pack), **OFTEN)
        for x, y in batches(2, 4):
            run.step(x, y, lambda x, model=run.model, unpack=unpack: unpack(model(inputs=x)))
        runs.append(run)
    assert_same(*runs)
