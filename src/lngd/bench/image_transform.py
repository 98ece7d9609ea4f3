"""Crops of photographs: where they are is a pure function of the picture's size and of random numbers."""

import math
import random
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

AREA = (0.08, 1.0)  # of the picture
RATIO = (3 / 4, 4 / 3)  # width over height
TRIES = 10
EVALUATION_MARGIN = 256 / 224  # the short side over the crop's, in evaluation

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def random_box(width: int, height: int, draw: random.Random) -> Box:
    """A share of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015); after ten tries the middle."""
    for _ in range(TRIES):
        area = width * height * draw.uniform(*AREA)
        ratio = math.exp(draw.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return middle(width, height, w, h)


def middle(width: int, height: int, w: int, h: int) -> Box:
    """Of a picture, w × h pixels."""
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class Transform:
    """Pictures to `[3, size, size]` bytes, bilinear."""

    size: int

    def training(self, picture: Image.Image, seed: int) -> Tensor:
        """A random crop, mirrored half of the time."""
        draw = random.Random(seed)  # noqa: S311  no secret
        crop = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=random_box(*picture.size, draw))
        return _bytes(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else crop)

    def evaluation(self, picture: Image.Image) -> Tensor:
        """The middle of the picture, after its short side is 256/224 of the crop's."""
        short = round(self.size * EVALUATION_MARGIN)
        scale = short / min(picture.size)
        width, height = (max(short, round(side * scale)) for side in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        return _bytes(resized.crop(middle(width, height, self.size, self.size)))


def _bytes(picture: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3).permute(2, 0, 1)
