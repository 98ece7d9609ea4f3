from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.cifar10_resnet18 import PADDING, crop_and_flip
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


def flat(batch: tuple) -> list[torch.Tensor]:
    x, y = batch
    return [*(x if isinstance(x, tuple) else (x,)), y]


def same(first: list[tuple], second: list[tuple]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(flat(ours), flat(theirs), strict=True))


def source(make: Callable[[], Data], size: int, seed: int = 3) -> Batches:
    return make().batches(size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("make", "size"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("taken", [0, 1, 2, 7])
def test_batches_go_on_from_a_saved_position_wherever_it_is(make: Callable[[], Data], size: int, taken: int) -> None:
    whole, resumed = source(make, size), source(make, size)
    for _ in range(taken):
        next(whole)
    position = whole.state_dict()
    rest = [next(whole) for _ in range(9)]
    resumed.load_state_dict(position)
    assert same([next(resumed) for _ in range(9)], rest)


def test_an_augmented_sample_is_another_one_in_each_pass() -> None:
    batches = source(images, 20)
    first, second = (next(batches) for _ in range(2))
    by_label = [x[y.argsort()] for x, y in (first, second)]
    assert not torch.equal(*by_label)


def test_the_noise_of_a_batch_depends_on_seed_pass_and_place_only() -> None:
    def drawn(seed: int, passes: int, taken: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        torch.randperm(5, generator=generator)
        return torch.rand(1, generator=torch.Generator().manual_seed(batch_seed(generator, passes, taken))).item()

    places = [(seed, passes, taken) for seed in (0, 1) for passes in (0, 1) for taken in (0, 1)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


def test_evaluation_samples_are_the_first_and_not_augmented_and_streamed_data_are_no_split() -> None:
    split = images()
    assert torch.equal(next(split.evaluated_on(3).chunks(4))[0], split.test_x[:3])
    assert in_memory(split) is split
    with pytest.raises(BenchError, match="streams"):
        in_memory(translation())


def all_views(image: torch.Tensor) -> list[torch.Tensor]:
    """Every crop and its mirror image, cut out one at a time."""
    padded = functional.pad(image, (PADDING,) * 4)
    height, width = image.shape[-2:]
    places = [(top, left) for top in range(2 * PADDING + 1) for left in range(2 * PADDING + 1)]
    crops = [padded[:, top : top + height, left : left + width] for top, left in places]
    return [view for crop in crops for view in (crop, crop.flip(-1))]


@given(seed=st.integers(0, 2**31), channels=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9))
def test_every_image_becomes_a_crop_of_itself_or_its_mirror_image(seed: int, channels: int, height: int, width: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, height, width, generator=noise)
    for image, augmented in zip(x, crop_and_flip(x, noise), strict=True):
        assert any(torch.equal(augmented, view) for view in all_views(image))


def test_memory_is_laid_out_as_torch_expects_of_one_channel() -> None:
    """Strides of a one-channel image that suit both memory formats made torch 2.13's convolution corrupt the heap."""
    augmented = crop_and_flip(torch.randn(2, 1, 28, 28), torch.Generator().manual_seed(0))
    assert augmented.stride() == torch.empty(2, 1, 28, 28).stride()
