"""Counts what makes the host wait for the device, which a test on a CPU would not notice otherwise."""

from torch.utils._python_dispatch import TorchDispatchMode


class CountSyncs(TorchDispatchMode):
    """Counts the operators that bring a tensor's value to the host."""

    NAMES = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in self.NAMES:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))
