import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lngd_bench.tasks.augment import PADDING, crop_and_flip


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
    images = torch.randn(2, channels, height, width, generator=noise)
    for image, augmented in zip(images, crop_and_flip(images, noise), strict=True):
        assert any(torch.equal(augmented, view) for view in all_views(image))


def test_all_places_and_both_sides_occur_about_equally_often() -> None:
    image = torch.arange(1.0, 26).view(1, 1, 5, 5)
    noise = torch.Generator().manual_seed(0)
    views = crop_and_flip(image.expand(8100, 1, 5, 5), noise)
    counts = torch.stack([(views == view).flatten(1).all(1).sum() for view in all_views(image[0])])
    assert counts.sum() == 8100
    assert counts.min() > 20
    assert counts.max() < 90


def test_the_same_noise_gives_the_same_batch_and_the_input_stays() -> None:
    images = torch.randn(4, 3, 8, 8)
    before = images.clone()
    first, second = (crop_and_flip(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)


def test_memory_is_laid_out_as_torch_expects_of_one_channel() -> None:
    """Strides of a one-channel image that suit both memory formats made torch 2.13's convolution corrupt the heap."""
    augmented = crop_and_flip(torch.randn(2, 1, 28, 28), torch.Generator().manual_seed(0))
    assert augmented.stride() == torch.empty(2, 1, 28, 28).stride()
