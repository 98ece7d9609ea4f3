"""fully_shard (FSDP2): each process holds rows of the weights, and all train as one process on all of the data."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from every import METHODS
from lngd import Empirical, Schedule
from processes import Counted, bytes_of, everybodys, in_processes, share, whole

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


class Attention(nn.TransformerEncoderLayer):
    """A block of torch's own, called as the others are."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x: Tensor, *, twice: bool = False) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class Net(nn.Module):
    """Two convolutions, one of them in groups, a layer whose rows are inputs, blocks that return tuples, weights of their own."""

    def __init__(self, way: str = "pre-norm") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.grouped = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1, groups=2)
        self.inward = Conv1D(WIDTH, 32)
        self.blocks = nn.ModuleList(Attention() if way == "attention" else Block(way) for _ in range(3))
        self.experts, self.raw = nn.Parameter(torch.randn(2, WIDTH, WIDTH) / 3), nn.Parameter(torch.randn(5, WIDTH) / 3)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(torch.tanh(self.grouped(torch.tanh(self.convolution(x)))).flatten(1))
        x = torch.stack([x, 1 - x], 1)
        for block in self.blocks:
            x, _ = block(x, twice=True)
        x = torch.tanh(x[:, 0] @ self.experts[0] + x[:, 1] @ self.experts[1])
        return self.head(F.linear(self.norm(x), self.raw))


def data(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(BATCH, 1, 4, 6, generator=torch.Generator().manual_seed(step)).double()
    return x, x[:, 0, 0, :3].argmax(1)


def sharded(model: Net, where: str, **options: Any) -> nn.Module:
    """fully_shard of the whole model, and before it of each block, or of each linear layer."""
    linears = [module for module in model.modules() if type(module) is nn.Linear]  # attention doesn't call its own
    inside = [module for module in model.blocks.modules() if module in linears]
    parts: dict[str, Iterable[nn.Module]] = {
        "root": [],
        "blocks": model.blocks,
        "linears": linears,
        "both": [*inside, *model.blocks],
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
    made: Callable[[str], Net] = Net,
    **options: Any,
) -> tuple[list[Tensor], Any]:
    """The optimizer is built of the wrapped model."""
    model = wrap(made(way).double())
    optimizer = METHODS[kind](model, generator=torch.Generator().manual_seed(7), **options)
    for step in range(steps):
        x, y = (share(t).chunk(micro) for t in data(step))
        optimizer.zero_grad()
        for k in range(micro):
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(k == micro - 1)
            outputs = model(x[k].to(next(model.parameters()).dtype))
            (F.cross_entropy(outputs.to(x[k].dtype), y[k]) / micro).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return [whole(p) for p in model.parameters()], optimizer


def assert_close(found: list[Tensor], wanted: list[Tensor], what: str) -> None:
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7, msg=lambda text: f"{what}: {text}")


def equals_one_process(kinds: list[str], places: list[str], ways: list[str], expected: dict[str, list[Tensor]]) -> None:
    for kind, where, way in product(kinds, places, ways):
        found, optimizer = trained(kind, way, partial(sharded, where=where), **EXACT)
        assert_close(found, expected[kind + way], f"{kind}, {where}, {way}")
        matrices = [o for o in optimizer.summary() if len(o.shape) > 1]
        assert {o.kind for o in matrices} == {"curvature"}


@pytest.mark.parametrize(
    ("kinds", "places", "ways", "size"),
    [
        pytest.param(["LNGD", "SpectralLNGD"], ["blocks"], ["attention"], 2, id="fast"),
        pytest.param(list(METHODS), ["root", "blocks", "both"], ["pre-norm", "attention"], 2, marks=pytest.mark.slow, id="all"),
        pytest.param(["LNGD", "KFAC"], ["blocks"], ["attention"], 4, marks=pytest.mark.slow, id="four, some without rows"),
    ],
)
def test_with_shards_processes_are_one_with_the_whole_batch(
    kinds: list[str], places: list[str], ways: list[str], size: int, tmp_path: Path
) -> None:
    expected = {kind + way: trained(kind, way, **EXACT)[0] for kind, way in product(kinds, ways)}
    in_processes(equals_one_process, tmp_path, kinds, places, ways, expected, size=size)


def samples_as_ddp(ways: list[str], kind: str) -> None:
    """Noise and labels are pulled back over the borders of sharded modules: the same numbers as without shards."""
    options = {**EVERY, "fisher": "sampled" if kind == "KFAC" else "layerwise"}
    for way in ways:
        expected, _ = trained(kind, way, ddp, **options)
        for where in ("root", "blocks", "linears", "both"):
            for reshard in (True, False):
                wrap = partial(sharded, where=where, reshard_after_forward=reshard)
                found, optimizer = trained(kind, way, wrap, **options)
                notes = {o.reason for o in optimizer.summary() if o.kind == "curvature"}
                noted = way in ("post-norm", "sandwich") and where in ("blocks", "both") and kind != "KFAC"
                assert any("sampled where its sharded module ends" in note for note in notes) == noted, (way, where, notes)
                if not noted:
                    assert_close(found, expected, f"{way}, {where}, {reshard}")


WAYS = ["attention", "pre-norm", "post-norm", "sandwich", "parallel", "checkpointed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LNGD", "KFAC"])
def test_samples_are_those_of_a_model_without_shards(kind: str, tmp_path: Path) -> None:
    in_processes(samples_as_ddp, tmp_path, WAYS, kind)


def accumulates() -> None:
    """Gradients of micro-batches that are not synchronised."""
    expected = trained("LNGD", wrap=ddp, **EXACT)[0]
    found = trained("LNGD", wrap=lambda model: sharded(model, "blocks"), micro=2, **EXACT)[0]
    assert_close(found, expected, "micro-batches")


def copies_of_shards() -> None:
    """A mesh of copies and shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    for kind in ("LNGD", "SpectralLNGD"):
        expected = trained(kind, wrap=ddp, **EXACT)[0]
        found = trained(kind, wrap=lambda model: sharded(model, "blocks", mesh=mesh), **EXACT)[0]
        assert_close(found, expected, kind)


def two_models() -> None:
    """Of a mesh whose first dimension is no copy, as a pipeline's stages, the optimizer agrees within the second."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("models", "shards"))
    own = mesh["shards"]
    ends = []
    for seed in (0, distributed.get_rank() // 2):
        model = sharded(Net().double(), "blocks", mesh=own)
        optimizer = METHODS["LNGD"](model, **EXACT)
        for step in range(6):
            x, y = (t.chunk(2)[own.get_local_rank()] for t in data(100 * seed + step))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        ends.append(bytes_of(model))
    assert len(set(everybodys(ends[0]))) == 1
    assert [len(set(everybodys(ends[1])[k : k + 2])) for k in (0, 2)] == [1, 1]
    assert len(set(everybodys(ends[1]))) == 2
    assert everybodys(ends[1])[0] == ends[0]


def low_precision() -> None:
    """Weights that compute in bfloat16 go about as far, in the same direction."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    begin = torch.cat([p.detach().flatten() for p in Net().double().parameters()])
    for kind in ("LNGD", "SpectralLNGD"):
        runs = [
            trained(kind, wrap=lambda model, o=options: sharded(model.float(), "blocks", **o), steps=20)[0]
            for options in ({}, {"mp_policy": policy})
        ]
        one, two = (torch.cat([p.double().flatten() for p in run]) - begin for run in runs)
        assert F.cosine_similarity(one, two, dim=0) > 0.8
        assert 0.5 < one.norm() / two.norm() < 2.0


def alike(kind: str) -> None:
    """Default settings; NaN in one process's batch skips the step in all. Equal rates, equal collectives."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = Counted(monkeypatch)
        model = sharded(Net(), "blocks")
        optimizer = METHODS[kind](model)
        before = b""
        for step in range(40):
            x, y = (share(t).clone() for t in data(step))
            if step == 7:
                before = bytes_of(model)
                x[0] = torch.nan if distributed.get_rank() else 0.0
            optimizer.zero_grad()
            F.cross_entropy(model(x.float()), y).backward()
            optimizer.step()
            if step == 7:
                assert bytes_of(model) == before
        numbers = optimizer.stats()
        assert numbers["skipped"] == 1
        assert len({repr(each) for each in everybodys(numbers)}) == 1
        assert len({repr(each) for each in everybodys(counted.seen)}) == 1
        assert all(whole(p).isfinite().all() for p in model.parameters())


def offloaded_and_compiled() -> None:
    """Weights that wait on the host; a compiled model."""
    host = CPUOffloadPolicy(pin_memory=False)
    for kind in ("LNGD", "SpectralLNGD"):
        expected = trained(kind, wrap=ddp, **EXACT)[0]
        found = trained(kind, wrap=lambda model: sharded(model, "blocks", offload_policy=host), **EXACT)[0]
        assert_close(found, expected, f"{kind}, offloaded")
        found = trained(kind, wrap=lambda model: torch.compile(sharded(model, "blocks"), backend="eager"), **EXACT)[0]
        assert_close(found, expected, f"{kind}, compiled")


class Recurrent(Net):
    """An LSTM, sharded by itself."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.blocks = nn.ModuleList([nn.LSTM(WIDTH, WIDTH, batch_first=True)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(torch.tanh(self.grouped(torch.tanh(self.convolution(x)))).flatten(1))
        return self.head(F.linear(self.blocks[0](torch.stack([x, 1 - x], 1))[0][:, -1], self.raw))


def recurrent() -> None:
    """The weights of a recurrent network, which its module reads by itself."""
    for kind in ("LNGD", "SpectralLNGD"):
        expected = trained(kind, wrap=ddp, made=Recurrent, **EXACT)[0]
        for where in ("root", "blocks"):
            found, optimizer = trained(kind, wrap=partial(sharded, where=where), made=Recurrent, **EXACT)
            assert_close(found, expected, f"{kind}, {where}")
            assert "blocks.0.weight_hh_l0" in {o.name for o in optimizer.summary() if o.kind == "curvature"}


WORK = {work.__name__: work for work in (accumulates, low_precision, offloaded_and_compiled, recurrent)}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_in_two_processes(work: str, tmp_path: Path) -> None:
    """See each function above."""
    in_processes(WORK[work], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("work", [copies_of_shards, two_models])
def test_on_a_mesh_of_two_dimensions(work: Callable[[], None], tmp_path: Path) -> None:
    """See each function above."""
    in_processes(work, tmp_path, size=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@pytest.mark.parametrize("kind", METHODS)
def test_processes_have_equal_rates_and_collectives(kind: str, tmp_path: Path) -> None:
    in_processes(alike, tmp_path, kind)


def go_on(model: nn.Module, optimizer: Any, steps: Iterable[int]) -> None:
    """Every process has the same batch, so that their number makes no difference."""
    for step in steps:
        x, y = data(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def saved(kind: str, folder: str) -> None:
    model = sharded(Net().double(), "blocks")
    optimizer = METHODS[kind](model, **EXACT)
    go_on(model, optimizer, range(6))
    weights, state = get_state_dict(model, optimizer)
    distributed_checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
    go_on(model, optimizer, range(6, 12))
    ends = [whole(p) for p in model.parameters()]
    if distributed.get_rank() == 0:
        torch.save(ends, f"{folder}.pt")


def resumed(kind: str, folder: str) -> None:
    model = sharded(Net().double(), "blocks")
    optimizer = METHODS[kind](model, **EXACT)
    go_on(model, optimizer, range(1))  # shows how weights without modules are used, of which the state depends
    weights, state = get_state_dict(model, optimizer)
    distributed_checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    go_on(model, optimizer, range(6, 12))
    expected, found = torch.load(f"{folder}.pt"), [whole(p) for p in model.parameters()]
    if distributed.get_world_size() == 2:
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert_close(found, expected, f"{kind} on {distributed.get_world_size()} processes")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LNGD", "SpectralLNGD", "KFAC", "LNGDLr"])
def test_a_distributed_checkpoint_goes_on_with_any_number_of_processes(kind: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    in_processes(saved, tmp_path, kind, folder)
    for size in (2, 1, 3):
        (tmp_path / str(size)).mkdir()
        in_processes(resumed, tmp_path / str(size), kind, folder, size=size)
