"""The clock of every measured second of the bench."""

import time
from typing import Literal

import torch

Clock = Literal["cpu", "wall"]
CPU = torch.device("cpu")


def clock_of(device: torch.device = CPU) -> Clock:
    """`cpu`: time of this process, which other work on the machine does not lengthen; only one thread's is the user's wait.

    Where processes wait for each other it is none.
    """
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 and alone else "wall"


def clock(device: torch.device = CPU) -> float:
    """Seconds on the clock that `clock_of` names, after whatever the device still had to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if clock_of(device) == "cpu" else time.perf_counter()
