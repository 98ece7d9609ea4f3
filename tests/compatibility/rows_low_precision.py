"""Rows: half precision, with and without torch.amp."""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatibility.runs import Run, apart, assert_healthy, assert_trains, batches, changed, learnable, plain, seeded, start
from compatibility.table import group
from lngd import Schedule, SpectralLNGD
from lngd.methods import Method
from reference import differences, snapshot

precision = group("Low precision")

BF16, FP16 = torch.bfloat16, torch.float16
Clip = Callable[[torch.amp.GradScaler, Run], None]
SKIPPING = ("steps", "skipped", "measuring", "owed", "portions", "generator")
"""What a skipped step may change: counts, and what was drawn in its forward."""


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3))


def autocast(run: Run, dtype: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    run.optimizer.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        loss = F.cross_entropy(run.model(x), y)
    run.losses.append(loss.detach())
    return loss


def room(method: type[Method], usual: float) -> float:
    """How far apart two runs may be: the polar factor makes small singular values large, and their rounding with them."""
    return 3 * usual if method is SpectralLNGD else usual


@precision(
    "bfloat16 autocast", "within 10 % of the way that the float32 run goes, 30 % for SpectralLNGD; statistics stay in float32"
)
def bf16_autocast(method: type[Method]) -> None:
    run, data = start(method, net(), warmup=0), batches(5, 4, n=32)
    for x, y in data:
        autocast(run, BF16, x, y).backward()
        run.optimizer.step()
    single = start(method, net(), warmup=0).steps(data)
    assert apart(run.model, single.model, net()) < room(method, 0.1)
    assert_healthy(run, skipped=0)
    kept = [t for block in run.optimizer.blocks.values() for t in block.tensors().values()]
    assert {t.dtype for t in kept} <= {torch.float32, torch.bool}


@precision(
    "bfloat16 parameters", "every parameter moves and stays bfloat16, statistics are in float32, all is finite, the loss falls"
)
def bf16_parameters(method: type[Method]) -> None:
    x, y = learnable(32, 4, dtype=BF16)
    run = assert_trains(method, plain().to(BF16), x, y, curved={"0", "3", "5"}, steps=14)
    assert {p.dtype for p in run.model.parameters()} == {BF16}
    kept = [t for block in run.optimizer.blocks.values() for t in block.tensors().values()]
    assert {t.dtype for t in kept} <= {torch.float32, torch.bool}


def scaled(run: Run, scaler: torch.amp.GradScaler, clip: Clip | None, x: Tensor, y: Tensor) -> None:
    """torch's own recipe of a step with float16."""
    scaler.scale(autocast(run, FP16, x, y)).backward()
    if clip is not None:
        clip(scaler, run)
    scaler.step(run.optimizer)
    scaler.update()


def unscale_and_clip(scaler: torch.amp.GradScaler, run: Run) -> None:
    scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.2)


def near_single_precision(method: type[Method], clip: Clip | None, scale: float = 2.0**16, *, told: bool = False) -> None:
    """Five steps in float16, against the same in float32. `told`: the optimizer knows the scale from the user."""
    half, single = (start(method, net(), warmup=0) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for x, y in batches(5, 4, n=32):
        if told:
            half.optimizer.grad_scale = scaler.get_scale()
        scaled(half, scaler, clip, x, y)
        single.optimizer.zero_grad()
        F.cross_entropy(single.model(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(single.model.parameters(), 0.2)
        single.optimizer.step()
    assert apart(half.model, single.model, net()) < room(method, 0.03)
    assert_healthy(half, skipped=0)


@precision(
    "float16 autocast with `GradScaler`",
    "within 3 % of the way that the float32 run goes, 9 % for SpectralLNGD; a usual and an unusual scale",
)
def grad_scaler(method: type[Method]) -> None:
    near_single_precision(method, None)
    near_single_precision(method, None, 2.0**10)


@precision(
    "`GradScaler`, `unscale_`, `clip_grad_norm_`",
    "within 3 % (SpectralLNGD: 9 %) of the float32 run with that clipping; an unusual scale is told by `optimizer.grad_scale`",
)
def grad_scaler_with_clipping(method: type[Method]) -> None:
    near_single_precision(method, unscale_and_clip)
    near_single_precision(method, unscale_and_clip, 2.0**10, told=True)


def overflow(method: type[Method], clip: Clip | None) -> None:
    """A scale of 2⁴⁰ overflows, and is 2¹⁰ after it."""
    runs = []
    for overflows in (False, True):
        run = start(method, net(), warmup=0, schedule=Schedule(ramp=False))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40 if overflows else 2.0**10, backoff_factor=2.0**-30)
        data = batches(4, 4)
        if overflows:
            before = run.snapshot()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*skipped")  # it may be said
                scaled(run, scaler, clip, *batches(5, 4)[-1])
            run.losses.clear()
            seeded(run.generator)
            assert scaler.get_scale() == 2.0**10
            assert changed(before, run, SKIPPING) == []
        for x, y in data:
            scaled(run, scaler, clip, x, y)
        runs.append(run)
    one, two = (snapshot(run.model, run.optimizer) for run in runs)
    assert differences(one, two, ignoring=SKIPPING) == []


@precision("fp16 `GradScaler` overflow", "the step is skipped whole: what follows is bit-equal to a run that never had it")
def grad_scaler_overflow(method: type[Method]) -> None:
    overflow(method, None)


@precision(
    "fp16 `GradScaler` overflow after `unscale_`",
    "the step is skipped whole: what follows is bit-equal to a run that never had it",
)
def grad_scaler_overflow_with_clipping(method: type[Method]) -> None:
    overflow(method, unscale_and_clip)
