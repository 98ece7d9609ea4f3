"""Parameters of which each process holds some rows, as FSDP2 (`fully_shard`) leaves them between two steps.

A step works on the rows that lie here. What needs more is one of three things: a number of a whole layer, a sum over the
processes; a direction that mixes rows, which its layer's owner computes of all; the whole direction, once in an interval,
along which each process measures the curvature on its own samples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch import distributed as dist

from lngd.layers import ConvLayer, Layer, LinearLayer
from lngd.torch_private import all_gather_flat, is_shard
from lngd.types import GradientMatrix

Parts: TypeAlias = list[Tensor]
"""A tensor for each parameter of a layer, weight first."""
TENSOR_PARALLEL = (
    "parameter '{name}' is sharded as {placements}: tensor parallelism is not supported yet; fully_shard and "
    "DistributedDataParallel work"
)


def here(t: Tensor) -> Tensor:
    """What of a tensor lies in this process, detached; the tensor itself if it is no DTensor."""
    return t.detach().to_local() if is_shard(t) else t  # type: ignore[attr-defined]


def alike(rows: Tensor, p: Tensor) -> Tensor:
    """Rows of this process as a tensor sharded like `p`; as they are if `p` is no DTensor. They share their memory."""
    if not is_shard(p):
        return rows
    from torch.distributed.tensor import DTensor

    sharded: Any = p
    return DTensor.from_local(rows, sharded.device_mesh, sharded.placements, run_check=False, shape=p.shape, stride=p.stride())


def zeros_alike(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros in the place and the shape of a parameter."""
    return alike(torch.zeros_like(here(p), dtype=dtype), p)


def distributed_alike(t: Tensor, p: Tensor) -> Tensor:
    """A tensor as it comes out of a checkpoint, sharded as the parameter is now."""
    if is_shard(p) and not is_shard(t):
        return alike(t[Split.of(p).own(len(t))].clone(), p)
    if is_shard(t) and not is_shard(p):
        return t.full_tensor()  # type: ignore[attr-defined]
    return t


def refuse_others(name: str, p: Tensor) -> None:
    """Raises ValueError for a DTensor that is not split by rows in one dimension of its mesh and copied in the others."""
    placements: Any = p.placements  # type: ignore[attr-defined]
    shards = [each for each in placements if not each.is_replicate()]
    if len(shards) != 1 or type(shards[0]).__name__ != "Shard" or shards[0].dim != 0:
        raise ValueError(TENSOR_PARALLEL.format(name=name, placements=tuple(placements)))


@contextmanager
def agreeing_on(what: str) -> Iterator[None]:
    """Says what was being exchanged where that fails: another process has died, or has left the step."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"could not agree with the other processes on {what}: {error}") from error


class Split:
    """Which rows of a tensor each process of a group holds: as torch.chunk splits them.

    Args:
        group: the processes that hold parts of the same copy; None for all.
        size: how many they are.
        rank: this one's place among them.
    """

    def __init__(self, group: "dist.ProcessGroup | None", size: int, rank: int) -> None:
        self.group, self.size, self.rank = group, size, rank

    @property
    def name(self) -> str:
        """Of the group: what has the same is split among the same processes."""
        return "" if self.group is None else self.group.group_name

    @classmethod
    def of(cls, p: Tensor) -> "Split":
        """A sharded parameter's."""
        sharded: Any = p
        mesh = sharded.device_mesh
        dim = next(k for k, each in enumerate(sharded.placements) if not each.is_replicate())
        return cls(mesh.get_group(dim), mesh.size(dim), mesh.get_local_rank(dim))

    def rows(self, count: int, rank: int) -> slice:
        """Of `count` rows those of a process."""
        each = -(-count // self.size)
        return slice(min(count, rank * each), min(count, (rank + 1) * each))

    def own(self, count: int) -> slice:
        """Those of this process."""
        return self.rows(count, self.rank)

    def sums(self, numbers: Tensor) -> Tensor:
        """The sums of numbers over the processes."""
        numbers = numbers.clone()
        with agreeing_on("the lengths of weights and directions"):
            dist.all_reduce(numbers, group=self.group)
        return numbers

    def gathered(self, flat: Tensor, sizes: Sequence[int], what: str) -> list[Tensor]:
        """Flat tensors of these sizes, one of each process, in all of them. One collective."""
        longest = max(sizes)
        padded = flat if len(flat) == longest else torch.cat([flat, flat.new_zeros(longest - len(flat))])
        found = flat.new_empty(longest * self.size)
        with agreeing_on(what):
            all_gather_flat(found, padded, group=self.group)
        return [each[:size] for each, size in zip(found.view(self.size, longest).unbind(), sizes, strict=True)]

    def exchanged(self, sent: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> list[Tensor]:
        """Flat tensors, one to each process; returns what each has sent here, of these sizes. One collective."""
        flat, found = torch.cat(list(sent)), like.new_empty(sum(sizes))
        with agreeing_on("directions"):
            dist.all_to_all_single(found, flat, list(sizes), [len(t) for t in sent], group=self.group)
        return list(found.split(list(sizes)))


class ShardedLayer:
    """A layer of which this process holds some rows of each parameter: one flat vector, where a whole layer is a matrix.

    Args:
        layer: the adapter, whose parameters are DTensors.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer, self.split_of = layer, Split.of(layer.weight)
        self.shapes = [here(p).shape for p in layer.parameters]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.parameters = layer.parameters
        plain = type(layer) is LinearLayer or (type(layer) is ConvLayer and layer.groups == 1)
        self.own_outputs = self.split_of.own(layer.outputs) if plain else None
        """The outputs whose weights lie here; None where rows of the parameters are none of the matrix."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the state, which a layer whose statistics overflow changes."""
        return self.layer.dtype

    def matrix(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of each parameter as one vector."""
        return torch.cat([part.reshape(-1).to(self.dtype) for part in parts])

    def split(self, vector: Tensor) -> Parts:
        """The inverse."""
        return [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]

    def as_rows(self, vector: Tensor) -> GradientMatrix:
        """The rows of the matrix that lie here, `[rows, i]`."""
        weight, *bias = self.split(vector)
        rows = weight.reshape(len(weight), weight[:1].numel() or self.layer.inputs - len(bias))
        return torch.cat([rows, *(b.unsqueeze(1) for b in bias)], dim=1) if bias else rows

    def of_rows(self, rows: GradientMatrix) -> Tensor:
        """The inverse of `as_rows`."""
        return self.matrix([rows[:, :-1], rows[:, -1]] if len(self.sizes) > 1 else [rows])

    def whole(self, vectors: Sequence[Tensor]) -> GradientMatrix:
        """The layer's matrix of every process's vector."""
        pieces = [v.split(self.sizes_of(rank)) for rank, v in enumerate(vectors)]
        parts = [torch.cat(column).view(p.shape) for column, p in zip(zip(*pieces, strict=True), self.parameters, strict=True)]
        return self.layer.matrix(parts)

    def padded(self, vector: Tensor) -> GradientMatrix:
        """The layer's matrix with zeros for the rows of other processes."""
        sizes = [sum(self.sizes_of(rank)) for rank in range(self.split_of.size)]
        own = self.split_of.rank
        return self.whole([vector if rank == own else vector.new_zeros(size) for rank, size in enumerate(sizes)])

    def vectors(self, matrix: GradientMatrix) -> Parts:
        """The inverse: of a whole matrix the vector of each process."""
        parts = self.layer.split(matrix)
        return [self.matrix([part[self.split_of.rows(len(part), rank)] for part in parts]) for rank in range(self.split_of.size)]

    def sizes_of(self, rank: int) -> list[int]:
        """How many numbers of each parameter a process holds."""
        shapes = [p.shape for p in self.parameters]
        rows = [self.split_of.rows(shape[0], rank) for shape in shapes]
        return [(each.stop - each.start) * shape[1:].numel() for each, shape in zip(rows, shapes, strict=True)]


def owners(costs: Sequence[float], size: int) -> list[int]:
    """A process for each piece of work: the longest first, to whoever has least."""
    loads, found = [0.0] * size, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda k: -costs[k]):
        found[index] = owner = min(range(size), key=loads.__getitem__)
        loads[owner] += costs[index]
    return found


@dataclass
class Work:
    """What is to be done with a layer's whole matrix, and how it compares in cost."""

    layer: ShardedLayer
    function: Callable[[GradientMatrix], GradientMatrix]
    cost: float


def by_owner(work: Sequence[Work], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Work on each layer's whole matrix, which one process does, and the result in everybody's rows.

    Two collectives. No process holds more whole matrices than those it owns.
    """
    layers, split, like = [each.layer for each in work], work[0].layer.split_of, vectors[0]
    owner = owners([each.cost for each in work], split.size)
    of = [[k for k, each in enumerate(owner) if each == rank] for rank in range(split.size)]
    mine, empty = of[split.rank], like.new_empty(0)
    counts = [[sum(layers[k].sizes_of(rank)) for k in mine] for rank in range(split.size)]
    sent = [torch.cat([empty, *(vectors[k] for k in theirs)]) for theirs in of]
    arrived = split.exchanged(sent, [sum(each) for each in counts], like)
    pieces = [flat.split(each) for flat, each in zip(arrived, counts, strict=True)]
    back = [[empty] for _ in range(split.size)]
    for place, k in enumerate(mine):
        result = work[k].function(layers[k].whole([found[place] for found in pieces]))
        for rank, vector in enumerate(layers[k].vectors(result)):
            back[rank].append(vector)
    own = [[len(vectors[k]) for k in theirs] for theirs in of]
    returned = split.exchanged([torch.cat(each) for each in back], [sum(each) for each in own], like)
    found: dict[int, Tensor] = {}
    for theirs, flat, sizes in zip(of, returned, own, strict=True):
        found |= dict(zip(theirs, flat.split(sizes), strict=True))
    return [found[k] for k in range(len(layers))]


def shared_out(
    what: str,
    work: Sequence[Callable[[], Tensor]],
    costs: Sequence[float],
    *,
    shapes: Sequence[torch.Size],
    split: Split,
    like: Tensor,
) -> list[Tensor]:
    """The results of pieces of work, of these shapes, each done by one process and given to all. One collective."""
    owner = owners(costs, split.size)
    of = [[k for k, each in enumerate(owner) if each == rank] for rank in range(split.size)]
    flat = torch.cat([like.new_empty(0), *(work[k]().reshape(-1) for k in of[split.rank])])
    sizes = [[shapes[k].numel() for k in theirs] for theirs in of]
    found: dict[int, Tensor] = {}
    for theirs, whole, each in zip(of, split.gathered(flat, [sum(each) for each in sizes], what), sizes, strict=True):
        found |= {k: part.view(shapes[k]) for k, part in zip(theirs, whole.split(each), strict=True)}
    return [found[k] for k in range(len(work))]


def everywhere(layers: Sequence[ShardedLayer], vectors: Sequence[Tensor]) -> list[GradientMatrix]:
    """The whole matrix of each layer, in every process; one collective, in bfloat16 if they are float32."""
    split, flat = layers[0].split_of, torch.cat(list(vectors))
    dtype, flat = flat.dtype, flat.to(torch.bfloat16) if flat.dtype == torch.float32 else flat
    counts = [[sum(each.sizes_of(rank)) for each in layers] for rank in range(split.size)]
    arrived = split.gathered(flat, [sum(each) for each in counts], "directions")
    pieces = [whole.to(dtype).split(each) for whole, each in zip(arrived, counts, strict=True)]
    return [layer.whole([found[k] for found in pieces]) for k, layer in enumerate(layers)]
