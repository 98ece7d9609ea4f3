"""Every test begins alike, whatever ran before it in its process."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _alike() -> None:
    """The runner flushes denormal numbers to zero in its process, which Hypothesis refuses to work with."""
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)
    torch.manual_seed(0)
