"""Shapes are checked in every test: jaxtyping's hook wraps the core before anything imports it (not with JAXTYPING_DISABLE=1).

The public constructors stay outside: they answer wrong values themselves, and an `int` is a `float` to them.
"""

import gc
import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from jaxtyping import config, install_import_hook

CORE = ("torch_private", "types", "linalg", "layers", "sampling", "capture", "curvature", "step_size")
OPTIMIZER = sorted(path.stem for path in Path(find_spec("lngd").origin).with_name("optimizer").glob("*.py"))
CHECK_THEMSELVES = ("natural_gradient", "hyperparameters", "__init__")
CONSTRUCTORS = ("InvariantRate", "LayerwiseRate", "Graft", "KLClip", "FixedRMS", "Layerwise", "Sampled")

if not config.jaxtyping_disable:
    checked = [*CORE, *(f"optimizer.{name}" for name in OPTIMIZER if name not in CHECK_THEMSELVES)]
    install_import_hook([f"lngd.{module}" for module in checked], "beartype.beartype")
    import lngd

    for name in CONSTRUCTORS:
        kind = getattr(lngd, name)
        kind.__init__ = inspect.unwrap(kind.__init__)

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: tests that look for garbage need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same randomness, in whatever order the tests run."""
    torch.set_flush_denormal(False)  # the bench's runner turns it on for its process
    torch.manual_seed(0)
