"""Work in several processes, each with a copy of a model or a part of one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from lngd.optimizer.ranks import Ranks
from lngd.optimizer.shards import Split


def in_processes(work: Callable[..., None], tmp_path: Path, *args: Any, size: int = 2) -> None:
    """`work(*args)` in `size` processes with gloo; fails where one of them fails."""
    torch.multiprocessing.spawn(_worker, (work, str(tmp_path / "store"), size, args), nprocs=size)


def _worker(rank: int, work: Callable[..., None], store: str, size: int, args: tuple) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    work(*args)
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch's own threads are not always joined at the interpreter's end, which would abort then


def everybodys(mine: Any) -> list[Any]:
    """What every process has, in their order."""
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return found


def share(t: Tensor) -> Tensor:
    """Of this process."""
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    return t.chunk(size)[rank]


def whole(p: Tensor) -> Tensor:
    """A parameter, of which each process may hold some rows."""
    return p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach()


def bytes_of(model: nn.Module) -> bytes:
    """All of a model's parameters."""
    return b"".join(whole(p).numpy().tobytes() for p in model.parameters())


class Counted:
    """The collectives of the optimizer, in their order: what kind, and the shapes of what is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, list[torch.Size]]] = []
        monkeypatch.setattr(Ranks, "sums", self._of(Ranks.sums, "sums", lambda tensors: [t.shape for t in tensors]))
        monkeypatch.setattr(Ranks, "gather", self._of(Ranks.gather, "gather", lambda _mine: []))
        monkeypatch.setattr(Split, "sums", self._of(Split.sums, "sums among rows", lambda t: [t.shape]))
        monkeypatch.setattr(Split, "gathered", self._of(Split.gathered, "gathered", lambda _flat: []))
        monkeypatch.setattr(Split, "exchanged", self._of(Split.exchanged, "exchanged", lambda _sent: []))

    def _of(self, method: Callable[..., Any], name: str, shapes: Callable[[Any], list[torch.Size]]) -> Callable[..., Any]:
        def counting(own: Any, given: Any, *rest: Any) -> Any:
            what = [each for each in rest if isinstance(each, str)]
            self.seen.append((" of ".join([name, *what]), shapes(given)))
            return method(own, given, *rest)

        return counting
