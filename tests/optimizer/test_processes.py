"""Wrapped models: one process trains, several are refused before their weights can drift apart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lngd import LNGD


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


def refused(rank: int, store: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with pytest.raises(ValueError, match="several processes"):
        LNGD(DistributedDataParallel(nn.Linear(4, 3)))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_are_refused(tmp_path: Path):
    torch.multiprocessing.spawn(refused, (str(tmp_path / "store"),), nprocs=2)
