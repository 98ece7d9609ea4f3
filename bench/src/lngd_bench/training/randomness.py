"""For each run a random sequence of its own, so that interleaved runs can't influence each other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

State = tuple[torch.Tensor, list[torch.Tensor]]


class PrivateRandomness:
    """Swaps the global state in for a slice of a run and the former one back after it."""

    def __init__(self, seed: int) -> None:
        former = _state()
        torch.manual_seed(seed)
        self.state = _state()
        _restore(former)

    @contextmanager
    def active(self) -> Iterator[None]:
        former = _state()
        _restore(self.state)
        try:
            yield
        finally:
            self.state = _state()
            _restore(former)


def _state() -> State:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _restore(state: State) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
