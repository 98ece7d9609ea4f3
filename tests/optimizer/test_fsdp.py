"""fully_shard (FSDP2): each process holds rows of the weights, and all train as one process on all of the data."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from every import METHODS
from lngd import Empirical, Schedule
from lngd.layers import Conv1DLayer
from processes import everybodys, in_processes, share, whole

EVERY = {"schedule": Schedule(curvature_every=1, inverse_every=1, samples=None)}
EXACT = {"fisher": Empirical(), **EVERY}
BATCH, WIDTH = 16, 6


class Conv1D(nn.Module):
    """As GPT-2 has it: the weight `[i, o]`, so that a process holds the weights of some inputs."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Block(nn.Module):
    """Of a transformer, without its attention."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.norm, self.post = way, nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.beside = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        if self.way == "post-norm":
            return self.norm(x + self.down(F.gelu(self.up(x))))
        inner = self.norm(x)
        if self.way == "sandwich":
            return x + self.post(self.down(F.gelu(self.up(inner))))
        return x + self.down(F.gelu(self.up(inner))) + (self.beside(inner) if self.way == "parallel" else 0.0)

    def forward(self, x: Tensor, *, twice: bool = False) -> tuple[Tensor, None]:
        return (checkpoint(self.body, x, use_reentrant=False) if self.way == "checkpointed" else self.body(x)), None


class Net(nn.Module):
    """Two convolutions, one of them in groups, a layer whose rows are inputs, and blocks that return tuples."""

    def __init__(self, way: str = "pre-norm") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.grouped = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1, groups=2)
        self.inward = Conv1D(WIDTH, 32)
        self.blocks = nn.ModuleList(Block(way) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(torch.tanh(self.grouped(torch.tanh(self.convolution(x)))).flatten(1))
        for block in self.blocks:
            x, _ = block(x, twice=True)
        return self.head(self.norm(x))


def data(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(BATCH, 1, 4, 6, generator=torch.Generator().manual_seed(step)).double()
    return x, x[:, 0, 0, :3].argmax(1)


def sharded(model: Net, where: str, **options: Any) -> nn.Module:
    """fully_shard of the whole model, and before it of each block, or of each linear layer."""
    parts: dict[str, Iterable[nn.Module]] = {
        "root": [],
        "blocks": model.blocks,
        "linears": [module for module in model.modules() if isinstance(module, nn.Linear)],
        "both": [*(module for module in model.blocks.modules() if isinstance(module, nn.Linear)), *model.blocks],
    }
    for module in parts[where]:
        fully_shard(module, **options)
    return fully_shard(model, **options)


def ddp(model: Net) -> nn.Module:
    return DistributedDataParallel(model, find_unused_parameters=True)


def trained(
    kind: str,
    way: str = "pre-norm",
    wrap: Callable[[Net], nn.Module] = lambda model: model,
    *,
    steps: int = 8,
    micro: int = 1,
    **options: Any,
) -> tuple[list[Tensor], Any]:
    """The optimizer is built of the wrapped model."""
    model = wrap(Net(way).double())
    optimizer = METHODS[kind](model, generator=torch.Generator().manual_seed(7), **options)
    for step in range(steps):
        x, y = (share(t).chunk(micro) for t in data(step))
        optimizer.zero_grad()
        for k in range(micro):
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(k == micro - 1)
            (F.cross_entropy(model(x[k]), y[k]) / micro).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return [whole(p) for p in model.parameters()], optimizer


def assert_close(found: list[Tensor], wanted: list[Tensor], what: str) -> None:
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9, msg=lambda text: f"{what}: {text}")


def equals_one_process(kinds: list[str], places: list[str], expected: dict[str, list[Tensor]]) -> None:
    for kind in kinds:
        for where in places:
            found, _ = trained(kind, wrap=lambda model, where=where: sharded(model, where), **EXACT)
            assert_close(found, expected[kind], f"{kind}, {where}")


@pytest.mark.parametrize(
    ("kinds", "places", "size"),
    [
        pytest.param(["LNGD", "SpectralLNGD"], ["blocks"], 2, id="fast"),
        pytest.param(list(METHODS), ["root", "blocks", "both"], 2, marks=pytest.mark.slow, id="all"),
        pytest.param(["LNGD", "KFAC"], ["blocks"], 4, marks=pytest.mark.slow, id="four processes, some without rows"),
    ],
)
def test_with_shards_processes_are_one_with_the_whole_batch(
    kinds: list[str], places: list[str], size: int, tmp_path: Path
) -> None:
    expected = {kind: trained(kind, **EXACT)[0] for kind in kinds}
    in_processes(equals_one_process, tmp_path, kinds, places, expected, size=size)


def samples_as_ddp(ways: list[str], kind: str) -> None:
    """Noise and labels are pulled back over the borders of sharded modules: the same numbers as without shards."""
    options = {**EVERY, "fisher": "sampled" if kind == "KFAC" else "layerwise"}
    for way in ways:
        expected, _ = trained(kind, way, ddp, **options)
        for where in ("root", "blocks", "linears", "both"):
            for reshard in (True, False):
                found, optimizer = trained(
                    kind, way, lambda model: sharded(model, where, reshard_after_forward=reshard), **options
                )
                notes = {o.reason for o in optimizer.summary() if o.kind == "curvature"}
                noted = way in ("post-norm", "sandwich") and where in ("blocks", "both") and kind != "KFAC"
                assert any("sampled where its sharded module ends" in note for note in notes) == noted, (way, where, notes)
                if not noted:
                    assert_close(found, expected, f"{way}, {where}, {reshard}")


WAYS = ["pre-norm", "post-norm", "sandwich", "parallel", "checkpointed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LNGD", "KFAC"])
def test_samples_are_those_of_a_model_without_shards(kind: str, tmp_path: Path) -> None:
    in_processes(samples_as_ddp, tmp_path, WAYS, kind)
