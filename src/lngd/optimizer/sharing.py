"""What several processes need not all compute: directions and inverses, one process's work each, and rows of sharded layers."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lngd.optimizer.curved_layer import CurvedLayer
from lngd.optimizer.layer_step import Bucket
from lngd.optimizer.shards import ShardedLayer, Split, Work, by_owner, everywhere, shared_out
from lngd.step_size import Averages, Steps
from lngd.types import GradientMatrix, Vector

SHARED_FROM = 512
"""Rows of a layer's factors, on average, from which an inverse takes longer to make than to send."""


def directions(buckets: Sequence[Bucket], averages: Sequence[Averages], split: Split | None) -> Iterator[Steps]:
    """d = F̂⁻¹M of layers that several processes have: of sharded ones the rows that lie here.

    Rows are computed by themselves where F̂⁻¹ mixes none. All else is one piece of work, shared out by its cost: rows go to a
    layer's owner and come back; of a layer that all have whole one of them computes d for the others.

    Args:
        buckets: of layers.
        averages: M of each bucket.
        split: the processes that have whole layers.
    """
    found = [[torch.zeros_like(m) for m in own.matrices] for own in averages]
    waiting: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for b, bucket in enumerate(buckets):
        for k, each in enumerate(bucket.layers):
            shards, average = each.shards, averages[b].matrices[k]
            if not each.ready:
                continue
            if shards is not None and each.by_rows and shards.own_outputs is not None:
                rows = each.block.precondition_rows(shards.as_rows(average), shards.own_outputs)
                found[b][k] = shards.of_rows(rows)
            else:
                kind = None if shards is None else shards.split_of.name, average.dtype, average.device
                waiting.setdefault(kind, []).append((b, k))
    for places in waiting.values():
        given = [(buckets[b].layers[k], averages[b].matrices[k]) for b, k in places]
        for (b, k), result in zip(places, _by_others(given, split), strict=True):
            found[b][k] = result
    for bucket, own in zip(buckets, found, strict=True):
        yield bucket.without_resting(own)


def _by_others(given: Sequence[tuple[CurvedLayer, GradientMatrix]], split: Split | None) -> list[Tensor]:
    """d of layers of one kind and M of each: all of them sharded, or all of them whole."""
    averages = [average for _, average in given]
    if given[0][0].shards is not None:
        return by_owner([Work(_sharded(each.shards), each.direction, each.step_cost) for each, _ in given], averages)
    assert split is not None
    work, costs = [partial(each.direction, average) for each, average in given], [each.step_cost for each, _ in given]
    return shared_out("directions", work, costs, shapes=[m.shape for m in averages], split=split, like=averages[0])


def refresh(layers: Sequence[CurvedLayer], split: Split | None) -> None:
    """New inverses of some layers; those that take long are made by one process each, and given to all."""
    shared = [each for each in layers if split is not None and each.block.refresh_cost >= SHARED_FROM * _numbers(each)]
    for each in layers:
        if each not in shared:
            each.refresh()
    for kind in dict.fromkeys((each.layer.dtype, each.layer.weight.device) for each in shared):
        alike = [each for each in shared if (each.layer.dtype, each.layer.weight.device) == kind]
        assert split is not None
        places = [[each.states[0][name] for name in each.block.inverses] for each in alike]
        like = torch.zeros(0, dtype=kind[0], device=kind[1])
        shapes = [torch.Size([1 + sum(t.numel() for t in own)]) for own in places]
        work, costs = [partial(_inverses, each, like) for each in alike], [each.block.refresh_cost for each in alike]
        results = shared_out("inverses", work, costs, shapes=shapes, split=split, like=like)
        for each, own, result in zip(alike, places, results, strict=True):
            made, *parts = result.split([1, *(t.numel() for t in own)])
            if made:
                for name, t, part in zip(each.block.inverses, own, parts, strict=True):
                    setattr(each.block, name, part.view(t.shape).to(t.dtype, copy=True))
            each.refreshed(bool(made))


def _inverses(each: CurvedLayer, like: Tensor) -> Tensor:
    """Whether there are inverses, and these, in one vector."""
    made = each.has_inverses()
    own = [getattr(each.block, name) if made else each.states[0][name] for name in each.block.inverses]
    return torch.cat([like.new_tensor([float(made)]), *(t.reshape(-1).to(like.dtype) for t in own)])


def _numbers(each: CurvedLayer) -> int:
    return sum(t.numel() for t in each.block.tensors().values())


def rate_numbers(bucket: Bucket) -> Vector:
    """What this process's samples say of the layers' rates. Of sharded layers they say it of the rows that lie here.

    Where it is measured along whole directions, these and the weights are gathered.
    """
    step = bucket.step
    if bucket.split is None:
        return step.numbers()
    shards = [_sharded(each.shards) for each in bucket.layers]
    *found, rows = step.of_rows([each.padded(d) for each, d in zip(shards, step.directions, strict=True)]).numbers()
    if step.curved:
        weights = [each.matrix([*parts]) for each, parts in zip(shards, bucket.held(), strict=True)]
        found = [*step.of_whole_layers(everywhere(shards, list(step.directions)), everywhere(shards, weights)).numbers()]
    else:
        found.append(torch.zeros_like(rows))
    return torch.stack([*found, rows])


def _sharded(shards: ShardedLayer | None) -> ShardedLayer:
    assert shards is not None
    return shards
