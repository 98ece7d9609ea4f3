"""From an image file to a network's input: decoding, the crops of training and of evaluation, normalisation.

A sample's randomness is a row of numbers drawn before, so that a crop is a pure function of them.
"""

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lngd_bench.errors import BenchError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training pixels, red, green, blue, from 0 to 1
FORMATS = ("JPEG", "PNG")
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10
DRAWS = 4 * TRIES + 1  # area, aspect, left and top of each try, and whether to mirror
RESIZED, CROPPED = 256, 224  # the evaluation's short side and the crop from it, kept in this proportion at every size
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)  # of Pillow's readers

View = Callable[[Image.Image, int, Sequence[float]], Image.Image]
"""(image, size, DRAWS numbers in [0, 1)) → a square of that size."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels, the last two outside."""


def decoded(path: Path) -> Image.Image:
    """RGB, whatever the file's colours; raises BenchError where it is no readable JPEG or PNG, or larger than Pillow's limit."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise BenchError(f"{path}: no JPEG or PNG image, or damaged ({error}); replace or remove it") from error


def training_view(image: Image.Image, size: int, draws: Sequence[float]) -> Image.Image:
    """A random part of the image stretched to the square, half of them mirrored (Szegedy et al. 2015)."""
    box = random_box(image.width, image.height, draws)
    square = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[-1] < 0.5 else square


def evaluation_view(image: Image.Image, size: int, _: Sequence[float] = ()) -> Image.Image:
    """The centre of the image after its short side was made size · 256/224 pixels.

    Only the centre is resized: a long thin image would otherwise take gigabytes.
    """
    half = min(image.size) * size / round(size * RESIZED / CROPPED) / 2
    x, y = image.width / 2, image.height / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(x - half, y - half, x + half, y + half))


def random_box(width: int, height: int, draws: Sequence[float]) -> Box:
    """The first of ten tries that fits into the image, else the largest part of a permitted aspect in its centre."""
    for start in range(0, 4 * TRIES, 4):
        share, stretch, left, top = draws[start : start + 4]
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * share)
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** stretch
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def normalised(images: Tensor) -> Tensor:
    """Bytes `[n, h, w, 3]` → `[n, 3, h, w]`."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)
