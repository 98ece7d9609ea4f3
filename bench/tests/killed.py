"""Races that are killed before their first, second, … operation on a file; run as a process of its own by test_resume.

Every life is a fork that sends itself SIGKILL, so nothing is cleaned up and no buffer is flushed.
"""

import io
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lngd_bench.training.race import Place, plan, race, unfinished
from runs import TOY

SPECS = plan([replace(TOY, batch_size=48)], ["sgd"], range(1))  # next to nothing but files
OPERATIONS = {"flush", "truncate", "fsync", "replace", "unlink", "mkdir"}  # writes wait in a buffer for the flush
OS = sys.modules[os.fsync.__module__]


def killed_before(operation: int, out: Path) -> bool:
    """One life of a race; false if it reached its end.

    Raises:
        RuntimeError: it ended in any other way.
    """
    child = os.fork()
    if not child:
        live(operation, out)
    status = os.waitpid(child, 0)[1]
    if status and not os.WIFSIGNALED(status):
        raise RuntimeError(f"the race killed before operation {operation} in {out} has failed")
    return bool(status)


def live(operation: int, out: Path) -> None:
    """Never returns: a fork must not go on with its parent's work."""
    try:
        kill_before(operation)
        list(race(unfinished(SPECS, out, resume=True), Place(out=out)))
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def kill_before(operation: int) -> None:
    left = operation

    def count(_: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and called.__name__ in OPERATIONS and is_of_a_file(getattr(called, "__self__", None)):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def is_of_a_file(owner: object) -> bool:
    return owner is OS or (isinstance(owner, io.IOBase) and not isinstance(owner, io.BytesIO))


def main(out: Path) -> None:
    """One directory a moment of death, and one in which a race dies again and again, each life longer."""
    list(race(SPECS, Place(out=out / "never")))  # imports what torch imports late, which every fork would do again
    moment = 1
    while killed_before(moment, out / f"once-{moment}"):
        moment += 1
    life = 1
    while killed_before(life, out / "often"):
        life += 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
