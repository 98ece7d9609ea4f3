"""Several processes that train copies of one model, each on data of its own: what they agree upon, and in which collectives.

Whoever averages the gradients, DistributedDataParallel or the user's own all-reduce, does not know of the curvature. So at every
measuring step the processes' statistics become one mean over all samples, and at every step that measures a rate so do the rate's
numbers. All processes then hold the same statistics, rates and weights. Which collectives a step has depends on nothing but the
plan and the step's number: no process waits for another that does not come.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch import distributed as dist

from lngd.optimizer.shards import Split, agreeing_on
from lngd.torch_private import is_distributed, is_shard

ProcessGroup: TypeAlias = "dist.ProcessGroup | bool | None"
"""Of the processes that share a model: None for all, False if each trains one of its own."""
RANK_BITS = 16
"""The last bits of a generator's seed, in which processes differ."""
APART = (
    "the processes hold different gradients: run forward and backward through a DistributedDataParallel model, or average the "
    "gradients before step(); process_group=False if each process trains a model of its own"
)


class Ranks:
    """The processes that share a model; one of them if there is no process group.

    Args:
        group: as the user gave it.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._given = group
        self._met = self._resumed = False
        self._base: int | None = None
        """What the first common seed is made of."""
        self.size, self.rank = 1, 0
        self.look()

    @property
    def several(self) -> bool:
        """Whether there is anybody to agree with."""
        return self.size > 1

    @property
    def _group(self) -> "dist.ProcessGroup | None":
        return None if self._given is True or self._given is False else self._given

    @property
    def split(self) -> Split | None:
        """The processes among which work is shared out; None if there is only one."""
        return Split(self._group, self.size, self.rank) if self.several else None

    def follow(self, parameters: Iterable[Tensor]) -> None:
        """Where the user names no group, the processes of a sharded model are those of its mesh.

        Raises:
            ValueError: the mesh has several dimensions and leaves out some processes, so that no group is known.
        """
        mesh: Any = next((p.device_mesh for p in parameters if is_shard(p)), None)  # type: ignore[attr-defined]
        if self._given is not None or mesh is None or mesh.size() == dist.get_world_size():
            return
        if mesh.ndim > 1:
            raise ValueError(f"{mesh} leaves out some processes: name the group of those that it has by process_group=")
        self._given = mesh.get_group()
        self.look()

    def look(self) -> None:
        """Asks torch.distributed: a process group is often made, and the model wrapped, after the optimizer."""
        there = self._given is not False and is_distributed()
        size, self.rank = (dist.get_world_size(self._group), dist.get_rank(self._group)) if there else (1, 0)
        self._met = self._met and size == self.size
        self.size = size

    def meet(self, grads: Sequence[Tensor], generator: torch.Generator) -> None:
        """In the first step together: the gradients are alike, and the noise will not be.

        Raises:
            RuntimeError: the gradients differ between processes, which nobody has averaged.
        """
        if self._met:
            return
        self._met = True
        sums = [float(grad.detach().double().sum()) for grad in (*grads[:1], *grads[-1:])]
        everybody = self.gather((repr(sums), generator.initial_seed()), "gradients")
        if len({seen for seen, _ in everybody}) > 1:
            raise RuntimeError(APART)
        if not self._resumed:
            self._base = everybody[0][1]

    def renew(self, generator: torch.Generator) -> None:
        """After a measuring step: noise of the next one, which each process draws for itself and a checkpoint of one knows."""
        base = generator.initial_seed() >> RANK_BITS if self._base is None else self._base
        following = (base * 6364136223846793005 + 1442695040888963407) % 2 ** (63 - RANK_BITS)  # Knuth's generator
        generator.manual_seed(following << RANK_BITS | self.rank)
        self._base = None

    def resume(self, generator: torch.Generator) -> None:
        """After a checkpoint, which may be another process's."""
        generator.manual_seed(generator.initial_seed() >> RANK_BITS << RANK_BITS | self.rank)
        self._resumed = True

    def gather(self, mine: Any, what: str) -> list[Any]:
        """What every process has, in their order. Waits for all."""
        found: list[Any] = [None] * self.size
        with agreeing_on(what):
            dist.all_gather_object(found, mine, group=self._group)
        return found

    @property
    def group(self) -> "dist.ProcessGroup":
        """The processes, as torch.distributed names them."""
        return self._group or dist.group.WORLD  # type: ignore[return-value]

    def broadcast(self, flat: Tensor, source: int, what: str) -> Tensor:
        """The flat tensor of one process, by its place in the group, in place of all others'."""
        with agreeing_on(what):
            dist.broadcast(flat, dist.get_global_rank(self.group, source), group=self._group)
        return flat

    def sums(self, tensors: Sequence[Tensor], what: str) -> list[Tensor]:
        """The sums of tensors over all processes, which have them in the same shapes; one collective."""
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        device = tensors[0].device
        flat = torch.cat([t.detach().reshape(-1).to(device, dtype) for t in tensors])
        with agreeing_on(what):
            dist.all_reduce(flat, group=self._group)
        parts = flat.split([t.numel() for t in tensors])
        return [part.view(t.shape).to(t.device, t.dtype) for part, t in zip(parts, tensors, strict=True)]


def packed(measured: Sequence[Tensor], statistics: int, groups: int) -> list[Tensor]:
    """What a layer has measured, of square statistics, which are symmetric, one half."""
    return [t[..., *_half(t)] if _is_square(t, k, statistics, groups) else t for k, t in enumerate(measured)]


def unpacked(halves: Iterable[Tensor], like: Sequence[Tensor], statistics: int, groups: int) -> tuple[Tensor, ...]:
    """The inverse, in the shapes of `like`."""
    found = []
    for k, (half, t) in enumerate(zip(halves, like, strict=True)):
        if _is_square(t, k, statistics, groups):
            rows, columns = _half(t)
            whole = torch.empty_like(t)
            whole[..., rows, columns] = whole[..., columns, rows] = half
            found.append(whole)
        else:
            found.append(half)
    return tuple(found)


def sent(shape: tuple[int, ...], groups: int) -> int:
    """How many numbers of a statistic are sent."""
    whole = math.prod(shape)
    return whole * (shape[-1] + 1) // (2 * shape[-1]) if _is_symmetric(shape, groups) else whole


def _is_square(t: Tensor, place: int, statistics: int, groups: int) -> bool:
    return place < statistics and _is_symmetric(t.shape, groups)


def _is_symmetric(shape: tuple[int, ...], groups: int) -> bool:
    own = shape[int(groups > 1) :]
    return len(own) > 1 and own[-1] == own[-2] > 1


def _half(t: Tensor) -> Tensor:
    """Places on and above the diagonal."""
    return torch.triu_indices(t.shape[-1], t.shape[-1], device=t.device)


def several_processes() -> bool:
    """Whether torch.distributed runs with more than one process."""
    return is_distributed() and dist.get_world_size() > 1
