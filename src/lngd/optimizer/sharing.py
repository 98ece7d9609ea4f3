"""The directions of sharded layers: a process computes its own rows where it has all that it takes, else a layer's owner does."""

from collections.abc import Iterator, Sequence

import torch

from lngd.optimizer.layer_step import Bucket
from lngd.optimizer.shards import ShardedLayer, Work, by_owner, everywhere
from lngd.step_size import Averages
from lngd.types import GradientMatrices, Vector


def directions(buckets: Sequence[Bucket], averages: Sequence[Averages]) -> Iterator[GradientMatrices]:
    """d = F̂⁻¹M of sharded layers, as far as their rows lie here: rows by themselves where F̂⁻¹ mixes none, else by owner.

    All that owners do is one piece of work, shared out by its cost, and one exchange there and back.
    """
    found = [[torch.zeros_like(m) for m in own.matrices] for own in averages]
    for_owners: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for b, bucket in enumerate(buckets):
        for k, each in enumerate(bucket.layers):
            shards, average = each.shards, averages[b].matrices[k]
            assert shards is not None
            if not each.ready:
                continue
            if each.by_rows and shards.own_outputs is not None:
                rows = each.block.precondition_rows(shards.as_rows(average), shards.own_outputs)
                found[b][k] = shards.of_rows(rows)
            else:
                kind = shards.split_of.group.group_name, average.dtype, average.device
                for_owners.setdefault(kind, []).append((b, k))
    for places in for_owners.values():
        layers = [buckets[b].layers[k] for b, k in places]
        work = [Work(_sharded(each.shards), each.direction, each.step_cost) for each in layers]
        results = by_owner(work, [averages[b].matrices[k] for b, k in places])
        for (b, k), vector in zip(places, results, strict=True):
            found[b][k] = vector
    for bucket, own in zip(buckets, found, strict=True):
        yield bucket.without_resting(own)


def rate_numbers(bucket: Bucket) -> Vector:
    """What this process's samples say of the layers' rates. Of sharded layers the whole directions and weights are gathered."""
    if bucket.split is None:
        return bucket.step.numbers()
    shards = [_sharded(each.shards) for each in bucket.layers]
    weights = [each.matrix([*parts]) for each, parts in zip(shards, bucket.held(), strict=True)]
    whole = bucket.step.of_whole_layers(everywhere(shards, list(bucket.step.directions)), everywhere(shards, weights))
    return whole.numbers()


def _sharded(shards: ShardedLayer | None) -> ShardedLayer:
    assert shards is not None
    return shards
