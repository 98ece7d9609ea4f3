"""Counts what makes the host wait for the device, which a test on a CPU would not notice otherwise."""

from torch.utils._python_dispatch import TorchDispatchMode

from lngd.linalg import finite
from lngd.optimizer import scale_invariance

UNTIL_ORDINARY = 13
"""Steps after which, by default, comes one that neither measures nor refreshes."""


class CountSyncs(TorchDispatchMode):
    """Counts the operators that bring a tensor's value to the host."""

    NAMES = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __enter__(self):
        """As on an accelerator, where no flag lies in the host's memory."""
        self._readable = finite.readable
        for module in (finite, scale_invariance):
            module.readable = lambda _flag: False
        return super().__enter__()

    def __exit__(self, *error):
        for module in (finite, scale_invariance):
            module.readable = self._readable
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in self.NAMES:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))
