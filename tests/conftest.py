"""Shapes are checked in every test: jaxtyping's hook wraps the core before anything imports it (not with JAXTYPING_DISABLE=1).

The public constructors stay outside: they answer wrong values themselves, and an `int` is a `float` to them.
"""

import pytest
import torch
from jaxtyping import config, install_import_hook

CORE = ("torch_private", "types", "linalg", "layers", "sampling", "capture", "curvature", "stepsize", "optimizer")

if not config.jaxtyping_disable:
    install_import_hook([f"lngd.{module}" for module in CORE], "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same randomness, in whatever order the tests run."""
    torch.set_flush_denormal(False)  # the bench's runner turns it on for its process
    torch.manual_seed(0)
