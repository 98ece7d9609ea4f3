"""Threads that take turns as often as Python lets them."""

import sys
import threading
from collections.abc import Callable, Iterable


def run_together(works: Iterable[Callable[[], object]]) -> None:
    """Each in a thread of its own, until all have ended."""
    threads = [threading.Thread(target=work) for work in works]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
