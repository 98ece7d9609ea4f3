"""The numerics of a device against float64 on the CPU, and that an ordinary step neither waits for it nor asks much of it.

LNGD_TEST_DEVICE names the device; `make gpu` sets it to cuda. On the CPU the same tests hold float32 against float64.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from every import METHODS
from lngd import Empirical, Schedule
from lngd.curvature import CurvatureBlock
from lngd.curvature.spectral import WholePsi
from syncs import UNTIL_ORDINARY, CountSyncs

DEVICE = torch.device(os.environ.get("LNGD_TEST_DEVICE", "cpu"))
EXACT = {"fisher": Empirical(), "schedule": Schedule(samples=None)}
LAUNCHES = 450
"""Kernels of a step of the net below."""
SKIP_COUNTERS_OWN = 1
"""Where flags can be read without waiting, the counter of skipped steps reads one."""
every_method = pytest.mark.parametrize("kind", METHODS)


class Net(nn.Module):
    """A convolution, a transformer's block, and layers that share a stack."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 6, 3)
        self.block = nn.TransformerEncoderLayer(6, 2, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.alike = nn.Sequential(*[each for _ in range(3) for each in (nn.Linear(6, 6), nn.Tanh())])
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.tanh(self.convolution(x)).flatten(2).transpose(1, 2))
        return self.head(self.alike(x).mean(1))


def data(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, x[:, 0, 0, :4].argmax(1)


def moved(kind: str, device: torch.device, dtype: torch.dtype, steps: int = 8, *, low: bool = False, **options: Any) -> Tensor:
    """How far training has moved the weights, in float64 on the CPU."""
    model = Net().to(device, dtype)
    before = torch.cat([p.detach().double().cpu().flatten() for p in model.parameters()])
    gentle = {"lr": 1e-3} if kind == "LNGDSample" else {}  # its steps are as long as F̂⁻¹M
    optimizer = METHODS[kind](model, **gentle, **options)
    for step in range(steps):
        x, y = data(step)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            outputs = model(x.to(device, dtype))
        F.cross_entropy(outputs.to(dtype), y.to(device)).backward()
        optimizer.step()
    return torch.cat([p.detach().double().cpu().flatten() for p in model.parameters()]) - before


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spectral step's root as a GPU computes it."""
    monkeypatch.setattr(WholePsi, "orthogonalise", CurvatureBlock.orthogonalise)


@pytest.fixture(params=[False, True], ids=["float32", "TF32"])
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@every_method
def test_float32_follows_float64(kind: str, tf32: bool, by_products: None) -> None:
    expected = moved(kind, torch.device("cpu"), torch.float64, **EXACT)
    found = moved(kind, DEVICE, torch.float32, **EXACT)
    assert (found - expected).norm() < (0.1 if tf32 and DEVICE.type != "cpu" else 5e-3) * expected.norm()


@every_method
def test_bfloat16_goes_the_same_way(kind: str, by_products: None) -> None:
    expected, found = (moved(kind, DEVICE, torch.float32, low=low, **EXACT) for low in (False, True))
    assert F.cosine_similarity(expected, found, dim=0) > 0.9
    assert 0.7 < found.norm() / expected.norm() < 1.4


def waits_for_nothing(step: Callable[[], None]) -> None:
    """On a GPU torch itself raises where the host would wait; on the CPU the operations that would make it are counted."""
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    with CountSyncs() as counter:
        step()
    assert len(counter.found) <= SKIP_COUNTERS_OWN


class Dispatched(TorchDispatchMode):
    """Counts operations that do something: views and what only looks at shapes are none on any device."""

    VIEWS = ("view", "slice", "select", "unbind", "detach", "t", "transpose", "unsqueeze", "expand", "split", "diagonal", "alias")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


def launches(step: Callable[[], None]) -> int:
    """Kernels of a GPU; on the CPU operations."""
    if DEVICE.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            step()
        return len(seen.events())
    with Dispatched() as counter:
        step()
    return counter.count


@every_method
def test_an_ordinary_step_waits_for_nothing_and_launches_little(kind: str) -> None:
    model = Net().to(DEVICE)
    optimizer = METHODS[kind](model, lr=torch.tensor(1e-3, device=DEVICE))
    x, y = (t.to(DEVICE) for t in data(0))
    x = x.float()

    def forward_and_backward() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()

    for _ in range(UNTIL_ORDINARY):
        forward_and_backward()
        optimizer.step()
    forward_and_backward()
    waits_for_nothing(optimizer.step)
    forward_and_backward()
    assert 0 < launches(optimizer.step) < LAUNCHES
