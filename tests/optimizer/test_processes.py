"""Several processes that train copies of one model: as one process on all of the data, and alike to the last bit."""

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from every import METHODS
from lngd import LNGD, Empirical, Schedule, SpectralLNGD
from lngd.optimizer import sharing
from processes import Counted, bytes_of, everybodys, in_processes, share

EXACT = {"fisher": Empirical(), "schedule": Schedule(samples=None)}
BATCH = 16


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def trained(wrap: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model = DistributedDataParallel(model) if wrap else model
    optimizer = LNGD(model, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return list(model.parameters())


def test_a_wrapped_model_in_one_process_trains_as_without_the_wrapper(one_process: None):
    assert all(torch.equal(a, b) for a, b in zip(trained(wrap=True), trained(wrap=False), strict=True))


class Net(nn.Module):
    """A convolution, a weight without a module, a recurrent network, a norm, and a branch that not every batch takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.linear = nn.Conv2d(1, 3, 3), nn.Linear(6, 6)
        self.found = nn.Parameter(torch.randn(6, 12) / 4)
        self.recurrent, self.norm, self.head = nn.GRU(6, 6, batch_first=True), nn.LayerNorm(6), nn.Linear(6, 3)
        self.branch = nn.Linear(6, 6)

    def forward(self, x: Tensor, branch: bool = False) -> Tensor:
        x = F.linear(torch.tanh(self.convolution(x)).flatten(2).transpose(1, 2).flatten(1).unflatten(1, (2, 12)), self.found)
        x = self.recurrent(torch.tanh(self.linear(x)))[0][:, -1]
        return self.head(self.norm(x + self.branch(x) if branch else x))


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 1, 4, 6, generator=generator).double()
    return x, x[:, 0, 0, :3].argmax(1)


def run(kind: str, *, steps: int = 12, wrap: Callable[[nn.Module], nn.Module] = lambda m: m, **options: Any) -> nn.Module:
    """Wrapped after the optimizer is built, as clients do."""
    model = Net().double()
    optimizer = METHODS[kind](model, **options)
    whole = wrap(model)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]
        x, y = data(step)
        optimizer.zero_grad()
        F.cross_entropy(whole(share(x)), share(y)).backward()
        optimizer.step()
    return model


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, find_unused_parameters=True)


def compare(kinds: list[str], expected: dict[str, list[Tensor]]) -> None:
    for kind in kinds:
        model = run(kind, wrap=ddp, **EXACT)
        for found, wanted in zip(model.parameters(), expected[kind], strict=True):
            torch.testing.assert_close(
                found.detach(), wanted, rtol=1e-8, atol=1e-10, msg=lambda text, kind=kind: f"{kind}: {text}"
            )
        assert len(set(everybodys(bytes_of(model)))) == 1


FAST = ["LNGD", "SpectralLNGD"]


@pytest.mark.parametrize("kinds", [pytest.param(FAST, id="fast"), pytest.param(list(METHODS), marks=pytest.mark.slow, id="all")])
def test_two_processes_with_half_a_batch_each_are_one_with_the_whole(kinds: list[str], tmp_path: Path) -> None:
    expected = {kind: [p.detach() for p in run(kind, **EXACT).parameters()] for kind in kinds}
    in_processes(compare, tmp_path, kinds, expected)


def alike(kind: str, steps: int) -> None:
    """Default settings, a branch that one process takes now and then, an accumulated step: equal bits, equal collectives."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = Counted(monkeypatch)
        model = Net()
        optimizer = METHODS[kind](model)
        whole = ddp(model)
        random = torch.Generator().manual_seed(distributed.get_rank())
        for step in range(steps):
            x, y = (share(t) for t in data(step))
            optimizer.zero_grad()
            if step % 5 == 3:
                with whole.no_sync():
                    F.cross_entropy(whole(x.float()), y).backward()
            branch = bool(torch.rand((), generator=random) < 0.3)
            F.cross_entropy(whole(x.float(), branch), y).backward()
            optimizer.step()
    assert len(set(everybodys(bytes_of(model)))) == 1
    assert len({repr(seen) for seen in everybodys(counted.seen)}) == 1
    assert all(p.isfinite().all() for p in model.parameters())
    assert [each & (2**16 - 1) for each in everybodys(optimizer._generator.initial_seed())] == [0, 1]
    sizes = [sum(shape.numel() for shape in shapes) for name, shapes in counted.seen if name.startswith("sums")]
    rates = 4 * len(optimizer.blocks) if optimizer.recipe.step_size.samples != 0 else 0
    measuring = [size for size in sizes if size > rates]
    assert len(measuring) < steps
    assert len(sizes) == len(measuring) + (steps if rates else 0)
    if kind in ("LNGD", "SpectralLNGD"):  # of the others numbers come along
        report = optimizer.memory_report()
        assert measuring[-1] == sum(layer.exchanged for layer in report.layers) // 4 + 3 * len(report.layers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_processes_stay_alike_whatever_each_of_them_uses(kind: str, tmp_path: Path) -> None:
    in_processes(alike, tmp_path, kind, 40)


def by_hand() -> None:
    """The user averages the gradients; without that the first step says what is missing, on each process."""
    outcomes = []
    for averaged in (True, False):
        model = Net()
        optimizer = LNGD(model)
        for step in range(3):
            x, y = (share(t) for t in data(step))
            optimizer.zero_grad()
            F.cross_entropy(model(x.float()), y).backward()
            for p in model.parameters():
                if averaged and p.grad is not None:
                    distributed.all_reduce(p.grad)
                    p.grad /= distributed.get_world_size()
            if averaged:
                optimizer.step()
            else:
                with pytest.raises(RuntimeError, match="the processes hold different gradients"):
                    optimizer.step()
                optimizer = LNGD(model, process_group=False)  # a model of its own
                optimizer.step()
                break
        outcomes.append(len(set(everybodys(bytes_of(model)))))
    assert outcomes == [1, 2]


def resumed() -> None:
    """From the checkpoint of one process, all go on as they would have, bit for bit."""

    def go(model: nn.Module, optimizer: Any, whole: nn.Module, steps: range) -> None:
        for step in steps:
            x, y = (share(t) for t in data(step))
            optimizer.zero_grad()
            F.cross_entropy(whole(x.float()), y).backward()
            optimizer.step()

    model = Net()
    optimizer = LNGD(model)
    whole = ddp(model)
    go(model, optimizer, whole, range(11))
    state = everybodys((copy.deepcopy(optimizer.state_dict()), model.state_dict()))[0]
    other = Net()
    other.load_state_dict(state[1])
    fresh = LNGD(other)
    fresh.load_state_dict(state[0])
    go(model, optimizer, whole, range(11, 30))
    go(other, fresh, ddp(other), range(11, 30))
    assert bytes_of(model) == bytes_of(other)
    alone = LNGD(net := Net(), process_group=False)
    net.load_state_dict(state[1])
    alone.load_state_dict(state[0])
    go(net, alone, net, range(11, 20))
    assert all(p.isfinite().all() for p in net.parameters())


def scaled() -> None:
    """A GradScaler's loss scale is known, though the gradients are averaged in between: the same run as without."""
    weights = []
    for scale in (None, 2.0**12):
        model = Net().double()
        optimizer = LNGD(model, **EXACT)
        whole = ddp(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(8):
            x, y = (share(t) for t in data(step))
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(whole(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        weights.append([p.detach().clone() for p in model.parameters()])
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


def poisoned() -> None:
    """A NaN on one process skips the step on all; they go on alike."""
    model = Net()
    optimizer = SpectralLNGD(model)
    whole = ddp(model)
    before = None
    for step in range(4):
        x, y = (share(t).clone() for t in data(step))
        if step == 2:
            before = bytes_of(model)
            if distributed.get_rank() == 1:
                x[0, 0, 0, 0] = torch.nan
        optimizer.zero_grad()
        F.cross_entropy(whole(x.float()), y).backward()
        optimizer.step()
        if step == 2:
            assert bytes_of(model) == before
    assert optimizer.stats()["skipped"] == 1
    assert len(set(everybodys(bytes_of(model)))) == 1


def without_data() -> None:
    """A process that has no batch in a step takes part in it: the others' samples are all there are."""
    model = Net().double()
    optimizer = LNGD(model, **EXACT)
    for step in range(8):
        x, y = (share(t) for t in data(step))
        optimizer.zero_grad(set_to_none=False)
        if step % 3 != 1 or distributed.get_rank() == 0:
            F.cross_entropy(model(x), y).backward()
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            distributed.all_reduce(p.grad)
        optimizer.step()
    assert optimizer.stats()["skipped"] == 0
    assert len(set(everybodys(bytes_of(model)))) == 1


class Random(nn.Module):
    """Some layers, of which each call uses some."""

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        depth = int(torch.randint(1, 6, (), generator=random))
        kinds = torch.randint(0, 4, (depth,), generator=random).tolist()
        made = [
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 6)),
            nn.Conv1d(1, 1, 3, padding=1),
        ]
        self.layers, self.head = nn.ModuleList(copy.deepcopy(made[kind]) for kind in kinds), nn.Linear(6, 3)

    def forward(self, x: Tensor, taken: list[bool]) -> Tensor:
        for layer, takes in zip(self.layers, taken, strict=True):
            if takes:
                x = x + (layer(x.unsqueeze(1)).squeeze(1) if isinstance(layer, nn.Conv1d) else layer(x))
        return self.head(x)


def random_models() -> None:
    """Whatever each process leaves out of a random model, all reach the same collectives in the same order."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = Counted(monkeypatch)
        for seed in range(12):
            random = torch.Generator().manual_seed(seed)
            torch.manual_seed(seed)
            model = Random(random)
            kind = list(METHODS)[seed % len(METHODS)]
            optimizer = METHODS[kind](model)
            whole = ddp(model)
            random.manual_seed(100 * seed + distributed.get_rank())
            for step in range(15):
                x, y = (share(t) for t in data(step))
                taken = torch.rand(len(model.layers), generator=random) < 0.5
                optimizer.zero_grad()
                F.cross_entropy(whole(x[:, 0, 0].float(), taken.tolist()), y).backward()
                optimizer.step()
            assert len(set(everybodys(bytes_of(model)))) == 1, (seed, kind)
            assert len({repr(seen) for seen in everybodys(counted.seen)}) == 1, (seed, kind)
            counted.seen.clear()


def uneven() -> None:
    """Under Join one process has fewer batches than the other, and a scheduler that it leaves off: equal bits all the same."""
    for kind in ("LNGD", "SpectralLNGD", "KFAC"):
        for batches in ((3, 9), (9, 0)):
            model = Net()
            optimizer = METHODS[kind](model)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            whole = ddp(model)
            with Join([whole, optimizer]):
                for step in range(batches[distributed.get_rank()]):
                    x, y = (share(t) for t in data(step))
                    optimizer.zero_grad()
                    F.cross_entropy(whole(x.float(), step % 2 == 0), y).backward()
                    optimizer.step()
                    scheduler.step()
            assert optimizer.t == max(batches)
            optimizer.zero_grad()
            F.cross_entropy(
                whole(x.float() if batches[distributed.get_rank()] else torch.ones(8, 1, 4, 6)), data(0)[1][:8]
            ).backward()
            optimizer.step()  # and go on together
            before = optimizer.t
            with whole.no_sync():
                F.cross_entropy(whole(torch.ones(8, 1, 4, 6)), data(0)[1][:8]).backward()
            F.cross_entropy(whole(torch.ones(8, 1, 4, 6)), data(0)[1][:8]).backward()
            optimizer.step()
            assert optimizer.t == before + 1
            with Join([whole]), pytest.raises(RuntimeError, match=r"with Join\(\[model, optimizer\]\)"):
                whole(torch.ones(8, 1, 4, 6))
            assert len(set(everybodys(bytes_of(model)))) == 1
            assert all(p.isfinite().all() for p in model.parameters())


def joined_without_the_optimizer() -> None:
    """Nobody waits for a process that does not come: the first forward says what to write."""
    model = Net().float()
    optimizer = LNGD(model)
    whole = ddp(model)
    with Join([whole]), pytest.raises(RuntimeError, match=r"with Join\(\[model, optimizer\]\)"):
        whole(data(0)[0].float())
    with Join([whole, optimizer]), whole.no_sync(), pytest.raises(RuntimeError, match="no_sync"):
        whole(data(0)[0].float())


def one_dies(kind: str) -> None:
    """The others say what they were doing."""
    model = Net()
    optimizer = METHODS[kind](model)
    whole = ddp(model)
    for step in range(4):
        x, y = (share(t) for t in data(step))
        optimizer.zero_grad()
        F.cross_entropy(whole(x.float()), y).backward()
        if step == 2 and distributed.get_rank() == 1:
            os._exit(0)
        if step == 2:
            with pytest.raises(RuntimeError, match="could not agree with the other processes on "):
                optimizer.step()
            os._exit(0)
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAST)
def test_a_process_that_dies_makes_the_others_fail_and_say_why(kind: str, tmp_path: Path) -> None:
    in_processes(one_dies, tmp_path, kind)


def shares_refreshes(kinds: list[str], expected: dict[str, list[Tensor]]) -> None:
    sharing.SHARED_FROM = 0
    compare(kinds, expected)


@pytest.mark.slow
def test_inverses_that_one_process_makes_are_everybodys(tmp_path: Path) -> None:
    expected = {kind: [p.detach() for p in run(kind, **EXACT).parameters()] for kind in METHODS}
    in_processes(shares_refreshes, tmp_path, list(METHODS), expected)


WORK = {
    work.__name__: work
    for work in (by_hand, resumed, scaled, poisoned, without_data, random_models, uneven, joined_without_the_optimizer)
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@pytest.mark.parametrize("work", WORK)
def test_in_two_processes(work: str, tmp_path: Path) -> None:
    """See each function above."""
    in_processes(WORK[work], tmp_path)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use", "ignore:.*FullyShardedDataParallel:FutureWarning")
def test_other_shards_than_rows_are_refused_with_what_works(one_process: None) -> None:
    with pytest.raises(ValueError, match=r"FullyShardedDataParallel \(FSDP1\) is not supported; fully_shard \(FSDP2\) and"):
        LNGD(nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 3), use_orig_params=True, device_id=torch.device("cpu"))))
    tensors = parallelize_module(nn.Sequential(nn.Linear(4, 3)), init_device_mesh("cpu", (1,)), {"0": RowwiseParallel()})
    with pytest.raises(ValueError, match=r"parameter '0.weight' is sharded as .*: tensor parallelism is not supported yet"):
        LNGD(tensors)
