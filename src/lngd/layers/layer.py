"""The contract of an adapter, nn.Module → (a, g): after it every supported module is a linear layer.

Checked for each one against autograd: with `a = layer.activations(x)` of shape `[n, s, i]` and
`g = layer.gradients(∂loss/∂output)` of shape `[n, s, o]`, `einsum("nso,nsi->oi", g, a)` is the weight's gradient (the bias
last, as the weight of a constant input 1). A grouped convolution has a leading group dimension in all three.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.types import Activations, GradientMatrix, Gradients


class Layer(ABC):
    """A module seen as `s = W a`. `with_bias`: its bias is trained too and counts as the last input."""

    weight_name: ClassVar[str] = "weight"
    bias_name: ClassVar[str] = "bias"
    one_hot: ClassVar[bool] = False
    """Whether `activations` are `OneHot`: every factor over the inputs is then a diagonal."""
    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {}
    """Why a module of the adapter's kind is no linear layer after all, and how to see that it is not."""
    on_request: ClassVar[str | None] = None
    """Why a module has curvature only in a group with `curvature=True`; None if it always has."""
    kernel_places: int = 1
    """How many inputs of one channel a position sees: the size of a convolution's kernel."""
    batched_dims: int = 2
    """The least number of dimensions that an input with a batch dimension has."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        self.module = module
        self.weight: nn.Parameter = module.get_parameter(self.weight_name)
        self.bias: nn.Parameter | None = module.get_parameter(self.bias_name) if with_bias else None
        self.groups: int = getattr(module, "groups", 1)
        self.batch_dim = 0
        self.least_dtype = torch.float32

    @abstractmethod
    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        """The module's input as rows that W multiplies."""

    @abstractmethod
    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        """A tensor shaped like the module's output as rows."""

    @abstractmethod
    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        """What the module would put out if `matrix` were its weights: `D a`, shaped like the output. Nothing is unfolded."""

    def refuses_call(self, args: tuple, kwargs: dict[str, Any]) -> str | None:
        """What the arguments of a call change, so that `activations` of its input alone would be wrong; None if nothing."""
        return None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight first, then the bias if it is trained."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def inputs(self) -> int:
        """i, the bias's constant 1 included."""
        return self.weight.numel() // (self.groups * self.outputs) + (self.bias is not None)

    @property
    def outputs(self) -> int:
        """o, per group."""
        return self.weight.shape[0] // self.groups

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of statistics: float32 or better, whatever the parameters' dtype."""
        return torch.promote_types(self.weight.dtype, self.least_dtype)

    def gradient(self) -> GradientMatrix:
        """The gradient of the loss as one matrix."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self.matrix(grads)

    def matrix(self, tensors: list[Tensor]) -> GradientMatrix:
        """Tensors shaped like `parameters` as one matrix, in the statistics' dtype; a view where that is possible."""
        weight, *bias = tensors
        if not bias:
            return self._matrix_of(weight).to(self.dtype)
        columns = [self._matrix_of(weight), *(b.reshape(*self._group_shape(), self.outputs, 1) for b in bias)]
        return torch.cat([column.to(self.dtype) for column in columns], dim=-1)

    def split(self, matrix: GradientMatrix) -> list[Tensor]:
        """The inverse of `matrix`: one tensor per parameter, in its shape."""
        if self.bias is None:
            return [self._weight_of(matrix)]
        return [self._weight_of(matrix[..., :-1]), matrix[..., -1].reshape(self.bias.shape)]

    def batch_first(self, t: Tensor) -> Tensor:
        """An input or output with its samples in the first dimension; applied twice, as it was."""
        return t if self.batch_dim == 0 or t.dim() <= self.batch_dim + 1 else t.transpose(0, self.batch_dim)

    def check_batch(self, x: Tensor, name: str) -> None:
        """Raises ValueError if `x` has no batch dimension: a Fisher matrix is a mean over samples."""
        if x.dim() < self.batched_dims:
            raise ValueError(
                f"layer '{name}' got an input of shape {tuple(x.shape)}, which has no batch dimension: "
                f"{type(self.module).__name__} needs at least {self.batched_dims} dimensions here, put x.unsqueeze(0) in"
            )

    def _matrix_of(self, weight: Tensor) -> GradientMatrix:
        """A tensor shaped like the weight as a matrix, possibly a view: torch's layout puts outputs first."""
        return weight.reshape(*self._group_shape(), self.outputs, -1)

    def _weight_of(self, matrix: GradientMatrix) -> Tensor:
        """The inverse of `_matrix_of`."""
        return matrix.reshape(self.weight.shape)

    def _group_shape(self) -> tuple[int, ...]:
        return (self.groups,) if self.groups > 1 else ()

    def _with_ones(self, a: Float[Tensor, "*group n s c"]) -> Float[Tensor, "*group n s i"]:
        return a if self.bias is None else F.pad(a, (0, 1), value=1.0)
