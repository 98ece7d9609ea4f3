"""Warnings that point to the user's line, however many calls of ours and of torch lie between."""

import sys
import warnings
from types import FrameType

OURS = ("lngd", "torch", "contextlib", "functools")
"""Packages between the user's line and a warning: torch wraps an optimizer's step, differently once its compiler is there."""


def warn(message: str) -> None:
    """Warns as if the user's line did: the innermost one that is neither ours nor torch's.

    From Python 3.12 on `skip_file_prefixes` does the same.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level if frame is not None else 2)
