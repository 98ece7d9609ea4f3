"""The contract of a curvature block: one layer's Fisher matrix, measured, averaged, inverted, applied.

A block knows `a` and `g` and nothing else: no module, no hook, no device, no rank. Its `statistics` are averaged over time and
checkpointed by name, its `inverses` are made from them by `refresh` and checkpointed too, so that a resumed run is bit-equal.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lngd.linalg import Damping, factor_shape, orthogonalised
from lngd.types import Activations, AnyTensor, Dense, GradientMatrix, Gradients

UNLIMITED = 2**31
Shape: TypeAlias = tuple[int, ...]


class CurvatureBlock(ABC):
    """One layer's approximate Fisher matrix F. Every shape may carry a leading group dimension.

    Args:
        max_dim: the largest dense matrix, for a block that can split its factors.
    """

    statistics: ClassVar[tuple[str, ...]]
    quadratic: ClassVar[tuple[bool, ...]]
    """Which of the measured tensors are quadratic in g; the others don't depend on its scale."""
    inverses: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[dict[str, torch.dtype]] = {}
    """Of statistics and inverses that are not of the layer's own dtype."""

    splits: ClassVar[bool] = True
    """Whether a dense factor larger than `max_dim` is cut into diagonal blocks; if not, the layer has no curvature."""

    damps_last_outputs: ClassVar[bool] = False
    """Whether the factor over the outputs is damped more in a layer whose outputs the loss reads."""

    by_rows: ClassVar[bool] = False
    """Whether a row of F̂⁻¹∇ depends on that row of ∇ alone: then each process can have its own."""

    takes_patches: ClassVar[bool] = False
    """Whether `measure` takes a convolution's `Patches`, not written out, for activations; then one call at a time."""

    shape: tuple[int, int]
    """(o, i) of the gradient, per group; set by the owner, or by the first measurement."""

    def __init__(self, max_dim: int = UNLIMITED) -> None:
        self.max_dim = max_dim
        self.updates = 0

    @property
    def largest(self) -> int:
        """The largest dense matrix."""
        return self.max_dim if self.splits else UNLIMITED

    @abstractmethod
    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        """Sizes of the dense matrices that have to be factorised. `one_hot`: the inputs are, their factor is a diagonal."""

    @abstractmethod
    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        """The shape of each statistic and inverse, per group; a scalar `()` is one for all groups."""

    @abstractmethod
    def measure(self, a: Activations, g: Gradients) -> tuple[Tensor, ...]:
        """One tensor per statistic, a mean over samples: measurements of several batches may be averaged."""

    def nothing(self, state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Zeros in the shapes of what `measure` gives: statistics, as in the layer's state, and numbers that come with them."""
        found = [torch.zeros_like(state[name]) for name in self.statistics]
        return *found, *(found[0].new_zeros(()) for _ in self.quadratic[len(found) :])

    @abstractmethod
    def refresh(self, damping: Damping) -> None:
        """Makes the inverses from the statistics. A failure leaves the last ones as they were."""

    @abstractmethod
    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """F̂⁻¹ applied to a gradient."""

    def orthogonalise(self, gradient: GradientMatrix) -> GradientMatrix:
        """F̂⁻¹ applied to a gradient, with all singular values, measured by F̂, set to about one."""
        return orthogonalised(self.precondition(gradient), gradient)

    def precondition_rows(self, rows: GradientMatrix, outputs: slice) -> GradientMatrix:
        """F̂⁻¹ applied to some rows of a gradient, those of these outputs; if `by_rows`."""
        raise NotImplementedError

    @abstractmethod
    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """The damped F as one matrix, for tests and diagnostics. A plain number is `Damping(number)`, without bounds."""

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """From what one step measured to what is averaged over steps."""
        return measured

    def weighted(self, measured: tuple[Tensor, ...], weight: float | Tensor) -> tuple[Tensor, ...]:
        """What `measure` would have given for √weight · g."""
        if isinstance(weight, float) and weight == 1:
            return measured
        return tuple(m * weight if squares else m for m, squares in zip(measured, self.quadratic, strict=True))

    def update(self, measured: tuple[Tensor, ...], decay: float) -> None:
        """F ← βF + (1−β)F_new (LNGD eq. 14), started at zero and corrected for that, so the first measurement counts whole."""
        self.updates += 1
        weight = (1 - decay) / (1 - decay**self.updates) if decay < 1 else 1 / self.updates
        for name, new in zip(self.statistics, self.normalise(measured), strict=True):
            setattr(self, name, new if self.updates == 1 else getattr(self, name).lerp(new, weight))

    @property
    def refresh_cost(self) -> int:
        """How the work of `refresh` compares among layers: b³ for each dense matrix of b rows."""
        return sum(t.numel() * t.shape[-1] for t in self.tensors().values() if t.dim() > 1 and t.shape[-1] == t.shape[-2])

    @property
    def measured(self) -> bool:
        """Whether there are statistics."""
        return self.updates > 0

    @property
    def ready(self) -> bool:
        """Whether there are inverses."""
        return all(hasattr(self, name) for name in self.inverses)

    def tensors(self) -> dict[str, AnyTensor]:
        """Statistics and inverses by name, as far as they exist."""
        names = (*self.statistics, *self.inverses)
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def load(self, updates: int, tensors: dict[str, AnyTensor]) -> None:
        """Takes what `tensors` gave."""
        self.updates = updates
        for name in (*self.statistics, *self.inverses):
            if name in tensors:
                setattr(self, name, tensors[name])
            elif hasattr(self, name):
                delattr(self, name)


def input_shape(inputs: int, one_hot: bool, largest: int = UNLIMITED) -> Shape:
    """Of a factor over the inputs."""
    return (inputs,) if one_hot else factor_shape(inputs, largest)


def dense_dims(dim: int, one_hot: bool, largest: int = UNLIMITED) -> tuple[int, ...]:
    """What a factor adds to `dims`: nothing if it is a diagonal."""
    return () if one_hot else (factor_shape(dim, largest)[-1],)
