"""Crops, decoding and normalisation of images."""

import contextlib
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lngd_bench.errors import BenchError
from lngd_bench.tasks.image_transform import (
    DRAWS,
    LARGEST,
    as_bytes,
    decoded,
    evaluation_view,
    normalised,
    random_box,
    training_view,
)

sides = st.integers(1, 3000)
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@given(sides, sides, draws)
def test_a_random_crop_lies_in_the_image(width: int, height: int, numbers: list[float]) -> None:
    box = random_box(width, height, numbers)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height


@given(st.integers(200, 3000), st.integers(200, 3000), draws)
def test_a_random_crop_has_the_area_and_the_aspect_of_the_inception_rule_up_to_rounding(
    width: int, height: int, numbers: list[float]
) -> None:
    box = random_box(width, height, numbers)
    w, h = box.right - box.left, box.bottom - box.top
    assert 3 / 4 * 0.97 <= w / h <= 4 / 3 * 1.03
    if 1 / 2 < width / height < 2:
        assert 0.08 * 0.97 <= w * h / (width * height) <= 1


@given(st.integers(0, 9), st.floats(0, 0.99), st.floats(0, 0.99))
def test_the_first_try_that_fits_is_taken(failures: int, left: float, top: float) -> None:
    """The whole area at the widest aspect never fits into a square; half of it at aspect 1 does."""
    numbers = [0.999, 0.999, 0.0, 0.0] * failures + [(0.5 - 0.08) / 0.92, 0.5, left, top]
    box = random_box(100, 100, numbers + [0.0] * (DRAWS - len(numbers)))
    side = round(math.sqrt(5000))
    assert box == (int(left * (101 - side)), int(top * (101 - side)), *(int(s * (101 - side)) + side for s in (left, top)))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(100, 100, (0, 0, 100, 100)), (400, 90, (140, 0, 260, 90)), (90, 400, (0, 140, 90, 260)), (1, 5000, (0, 2499, 1, 2500))],
)
def test_after_ten_tries_the_centre_is_taken(width: int, height: int, expected: tuple) -> None:
    assert random_box(width, height, [0.9999] * DRAWS) == expected


def test_half_of_the_training_images_are_mirrored() -> None:
    whole = [0.9999] * (DRAWS - 1)
    kept, mirrored = (np.array(training_view(gradient(64, 64), 64, [*whole, last])) for last in (0.5, 0.49))
    assert np.array_equal(kept, np.array(gradient(64, 64)))
    assert np.array_equal(mirrored, kept[:, ::-1])


@pytest.mark.parametrize(("width", "height"), [(512, 256), (256, 512), (640, 512), (256, 256)])
def test_an_evaluation_shows_the_centre_of_the_image_with_its_short_side_at_256(width: int, height: int) -> None:
    image = gradient(width, height)
    scale = 256 / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    expected = np.array(resized.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(np.array(evaluation_view(image, 224)).astype(int) - expected).max() <= 1


def test_an_evaluation_of_a_long_thin_image_takes_no_more_memory_than_another() -> None:
    assert evaluation_view(Image.new("RGB", (1, 1_000_000)), 224).size == (224, 224)


def test_normalised_images_have_imagenets_mean_and_deviation_as_zero_and_one() -> None:
    pixel = torch.tensor([[[[124, 116, 104], [255, 255, 255]]]], dtype=torch.uint8)
    found = normalised(pixel)
    assert found.shape == (1, 3, 1, 2)
    expected = [[(124 / 255 - 0.485) / 0.229, (1 - 0.485) / 0.229], [(116 / 255 - 0.456) / 0.224, (1 - 0.456) / 0.224]]
    torch.testing.assert_close(found[0, :2, 0], torch.tensor(expected))
    assert found[0, 2, 0, 1] == pytest.approx((1 - 0.406) / 0.225)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_colour_model_is_decoded_to_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 4)).save(tmp_path / "image.jpeg")
    assert as_bytes(decoded(tmp_path / "image.jpeg")).shape == (4, 5, 3)


def test_another_format_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    gradient(4, 4).save(tmp_path / "image.jpeg", "BMP")
    with pytest.raises(BenchError, match=r"image\.jpeg: no JPEG or PNG image"):
        decoded(tmp_path / "image.jpeg")


@pytest.mark.parametrize("side", [8193, 9500, 14000])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    assert side**2 > LARGEST
    content = bytearray(_png(gradient(4, 4), tmp_path))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = _checksum(content[12:29])
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(BenchError, match=r"bomb\.png: .*pixels"):
        decoded(tmp_path / "bomb.png")


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_png_with_a_wrong_byte_is_decoded_or_refused(tmp_path_factory, place: int, value: int) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    content = bytearray(_png(gradient(9, 9), directory))
    content[place % len(content)] = value
    (directory / "damaged.png").write_bytes(content)
    with contextlib.suppress(BenchError):
        assert decoded(directory / "damaged.png").mode == "RGB"


def _png(image: Image.Image, directory: Path) -> bytes:
    image.save(directory / "image.png")
    return (directory / "image.png").read_bytes()


def _checksum(chunk: bytes) -> bytes:
    return zlib.crc32(chunk).to_bytes(4, "big")
