"""Shapes are checked in every test: jaxtyping's hook wraps the core before anything imports it."""

import pytest
import torch
from jaxtyping import install_import_hook

CORE = ("types", "linalg", "layers", "fisher", "capture", "curvature", "stepsize", "optimizer", "methods")

install_import_hook([f"lngd.{module}" for module in CORE], "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same randomness, in whatever order the tests run."""
    torch.manual_seed(0)
