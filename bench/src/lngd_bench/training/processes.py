"""A race in several processes of this machine: each trains on its part of every batch, and the first one keeps the records."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from lngd_bench.tasks.data import Batch

RANK, SIZE, STORE = "LNGD_BENCH_RANK", "LNGD_BENCH_SIZE", "LNGD_BENCH_STORE"
"""What a helper is told by its environment."""
COMMAND = "from lngd_bench.cli import main; main()"


def is_helper() -> bool:
    """Whether another process keeps the records."""
    return RANK in os.environ


@contextmanager
def together(count: int) -> Iterator[None]:
    """This process and so many less one, which run the same command; they end with this one."""
    if count == 1:
        yield
        return
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    with tempfile.TemporaryDirectory() as folder:
        store = os.environ.get(STORE, str(Path(folder) / "store"))
        told = {SIZE: str(count), STORE: store}
        ranks = () if is_helper() else range(1, count)
        command = [sys.executable, "-c", COMMAND, *sys.argv[1:]]
        helpers = [  # which Ctrl-C does not reach: this process ends them
            subprocess.Popen(  # noqa: S603
                command, env={**os.environ, **told, RANK: str(rank)}, stdout=subprocess.DEVNULL, start_new_session=True
            )
            for rank in ranks
        ]
        try:
            rank = int(os.environ.get(RANK, 0))
            distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
            yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for helper in helpers:
                helper.terminate()
                helper.wait()


def wrapped(model: nn.Module) -> nn.Module:
    """The model that is called: with several processes its gradients are their average, as a sharded model's are by itself."""
    return model if _size() == 1 or isinstance(model, FSDPModule) else DistributedDataParallel(model)


def own_part(batch: Batch) -> Batch:
    """What of a batch this process trains on."""
    size = _size()
    return batch if size == 1 else pytree.tree_map(lambda t: t.chunk(size)[distributed.get_rank()], batch)


def mean_of_all(loss: Tensor) -> float:
    """The mean over the processes; so all see the same divergence."""
    if _size() == 1:
        return loss.item()
    total = loss.detach().clone()
    distributed.all_reduce(total)
    return total.item() / _size()


def _size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1
