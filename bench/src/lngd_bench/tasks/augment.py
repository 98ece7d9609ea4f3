"""Random crops and flips of whole batches on their device: the paper's augmentation for CIFAR-10."""

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4  # pixels on each side, of 32


def crop_and_flip(images: Tensor, noise: torch.Generator) -> Tensor:
    """Each image padded with zeros by 4 pixels and cut back at a random place, half of them mirrored.

    Zero is the mean of standardised images.
    """
    n, channels, height, width = images.shape
    top, left = torch.randint(2 * PADDING + 1, (2, n, 1), generator=noise)
    mirrored = torch.randint(2, (n, 1), generator=noise).bool()
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    padded = functional.pad(images, (PADDING,) * 4)
    sample, channel = torch.arange(n).view(n, 1, 1, 1), torch.arange(channels).view(1, channels, 1, 1)
    place = (sample, channel, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width))
    return padded[tuple(index.to(images.device) for index in place)]
