"""Counts what makes the host wait for the device, which a test on a CPU would not notice otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils._python_dispatch import TorchDispatchMode

from lngd.linalg import HOST

UNTIL_ORDINARY = 13
"""Steps after which, by default, comes one that neither measures nor refreshes."""


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """No flag lies in the host's memory, as far as the core can see: it has to work without reading any."""
    before = set(HOST)
    HOST.clear()
    try:
        yield
    finally:
        HOST.update(before)


class CountSyncs(TorchDispatchMode):
    """Counts the operators that bring a tensor's value to the host."""

    NAMES = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __enter__(self):
        self._pretending = as_on_an_accelerator()
        self._pretending.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        self._pretending.__exit__(None, None, None)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in self.NAMES:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))
