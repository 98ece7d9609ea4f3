from collections.abc import Iterator

import pytest
import torch

from lngd_bench.clock import clock_of


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_one_thread_is_timed_by_its_own_work_and_several_by_the_wall() -> None:
    torch.set_num_threads(1)
    assert clock_of() == "cpu"
    torch.set_num_threads(2)
    assert clock_of() == "wall"
