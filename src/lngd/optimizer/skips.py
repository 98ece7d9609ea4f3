"""Counts skipped steps without waiting for the device, and says so once."""

import warnings

import torch
from torch import Tensor

from lngd.types import Flag


class SkipCounter:
    """The count lives on the device; a host copy follows without synchronisation and serves the one warning."""

    def __init__(self) -> None:
        self._count: Tensor | None = None
        self._before = 0
        self._seen = torch.zeros((), dtype=torch.int64)  # pinned once the count is on a GPU: other host memory is waited for
        self._warned = False

    def add(self, accept: Flag, *, expected: bool) -> None:
        """Counts a step that was not accepted. `expected`: a GradScaler overflows now and then by design."""
        rejected = accept.logical_not().to(torch.int64)
        if self._count is None and rejected.is_cuda:
            self._seen = self._seen.pin_memory()
        self._count = rejected if self._count is None else self._count + rejected
        self._seen.copy_(self._count, non_blocking=True)
        if self._seen and not (self._warned or expected):
            self._warned = True
            warnings.warn(
                "a gradient or a statistic was not finite: that step was skipped, weights and averages are untouched; "
                "optimizer.stats()['skipped'] counts such steps",
                stacklevel=6,
            )

    def count(self) -> int:
        """Skipped steps so far; waits for the device."""
        return self._before + (0 if self._count is None else int(self._count))

    def restore(self, count: int) -> None:
        """Goes on from a checkpoint's count."""
        self._before, self._count = count, None
        self._seen.zero_()
