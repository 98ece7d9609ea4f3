"""The version, in one place, and those of what a run depends on."""

import platform

import torch

__version__ = "0.1.0"


def versions() -> str:
    """One line for a report of a fault."""
    return f"lngd {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
