from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.augment import crop_and_flip
from lngd_bench.tasks.data import Batches, Data, Split, batch_seed, in_memory
from runs import toy_split


def images() -> Split:
    x = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Split(x, torch.arange(20), x[:4], torch.arange(4), augment=crop_and_flip)


def translation() -> Data:
    return SCALES["wmt-transformer-big"]["tiny"].data(None)


KINDS: dict[str, tuple[Callable[[], Data], int]] = {
    "tensors": (toy_split, 16),
    "augmented": (images, 6),
    "translation": (translation, 512),
}
every_kind = pytest.mark.parametrize(("make", "size"), KINDS.values(), ids=KINDS)


def flat(batch: tuple) -> list[torch.Tensor]:
    x, y = batch
    return [*(x if isinstance(x, tuple) else (x,)), y]


def same(first: list[tuple], second: list[tuple]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(flat(ours), flat(theirs), strict=True))


def source(make: Callable[[], Data], size: int, seed: int = 3) -> Batches:
    return make().batches(size, torch.Generator().manual_seed(seed))


@every_kind
@pytest.mark.parametrize("taken", [0, 1, 2, 7])
def test_batches_go_on_from_a_saved_position_wherever_it_is(make: Callable[[], Data], size: int, taken: int) -> None:
    whole, resumed = source(make, size), source(make, size)
    for _ in range(taken):
        next(whole)
    position = whole.state_dict()
    rest = [next(whole) for _ in range(9)]
    resumed.load_state_dict(position)
    assert same([next(resumed) for _ in range(9)], rest)


@every_kind
def test_another_seed_gives_other_batches(make: Callable[[], Data], size: int) -> None:
    first, second = (next(source(make, size, seed)) for seed in (0, 1))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


@every_kind
def test_held_out_samples_evaluate_and_are_no_longer_trained_on(make: Callable[[], Data], size: int) -> None:
    data, held_out = make(), make().held_out()
    evaluated = list(held_out.chunks(4))
    assert sum(len(y) for _, y in evaluated) <= sum(len(y) for _, y in data.chunks(4))
    assert len(evaluated) > 0


def test_an_augmented_sample_is_another_one_in_each_pass() -> None:
    batches = source(images, 20)
    first, second = (next(batches) for _ in range(2))
    by_label = [x[y.argsort()] for x, y in (first, second)]
    assert not torch.equal(*by_label)


def test_evaluation_samples_are_not_augmented() -> None:
    split = images()
    assert torch.equal(next(split.chunks(4))[0], split.test_x)


def test_the_noise_of_a_batch_depends_on_seed_pass_and_place_only() -> None:
    def drawn(seed: int, passes: int, taken: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        torch.randperm(5, generator=generator)
        return torch.rand(1, generator=torch.Generator().manual_seed(batch_seed(generator, passes, taken))).item()

    places = [(seed, passes, taken) for seed in (0, 1) for passes in (0, 1) for taken in (0, 1)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


def test_streamed_data_are_refused_where_all_samples_are_needed_at_once() -> None:
    assert in_memory(toy_split()).train_x.shape == (96, 8)
    with pytest.raises(BenchError, match="streams"):
        in_memory(translation())


def test_fewer_evaluation_samples_are_the_first() -> None:
    split = replace(toy_split(), augment=None)
    assert torch.equal(split.evaluated_on(3).test_y, split.test_y[:3])
