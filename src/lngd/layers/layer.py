"""The contract of an adapter, nn.Module → (a, g): after it every supported module is a linear layer.

With `a = layer.activations(x)` of shape `[n, s, i]` and `g = layer.gradients(∂loss/∂output)` of shape `[n, s, o]`,
`einsum("nso,nsi->oi", g, a)` is the weight's gradient (the bias last, as the weight of a constant input 1). A grouped
convolution has a leading group dimension in all three. `lngd.check_layer` holds an adapter against autograd.
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
    """A module seen as `s = W a`, with n samples, s positions (pixels or tokens), i inputs and o outputs.

    An adapter is a subclass of this class; `lngd.register_layer(ModuleClass, Adapter)` puts it into use and
    `lngd.check_layer(module, inputs)` tests it. The module is called with one tensor, samples first, and returns one tensor.

    Three methods have to be written: `activations` gives a `[n, s, i]`, `gradients` gives g `[n, s, o]`, `output` gives what the
    module puts out with other weights.

    These are there to be overridden:

    - `weight_as_matrix`, `matrix_as_weight` and `outputs`, if the weight is not stored as `[o, i, …]`;
    - `weight_name`, `bias_name`, if the module's own parameters are called otherwise;
    - `batched_dims`, if an input with a batch has other than two dimensions at least;
    - `unsupported`, `refuses_call`, if some modules or some calls are not linear after all;
    - `on_request`, if AdamW is the better default;
    - `one_hot`, if `activations` returns `OneHot`; `kernel_places`, if a position sees a channel several times;
    - `__init__`, after a call of the parent's own, to set `self.groups` or what the methods need.

    `with_ones`, `dtype`, `groups`, `group_shape`, `inputs`, `weight`, `bias` help to write them. The rest is the optimizer's.

    Args:
        module: the module, which is not changed.
        with_bias: whether its bias is trained too; it then counts as the last input. A frozen bias belongs to neither `matrix`
            nor `output`.
    """

    weight_name: ClassVar[str] = "weight"
    """Of a parameter of the module itself, not of a module in it."""
    bias_name: ClassVar[str] = "bias"
    """Of a parameter of the module itself; a module need not have it."""
    one_hot: ClassVar[bool] = False
    """Whether `activations` are `OneHot`: every factor over the inputs is then a diagonal."""
    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {}
    """Why a module of the adapter's kind is no linear layer after all, and how to see that it is not."""
    on_request: ClassVar[str | None] = None
    """Why a module has curvature only in a group with `curvature=True`; None if it always has."""
    folds: ClassVar[bool] = False
    """Whether samples' rows in the first dimension may as well be positions in a second one."""
    kernel_places: int = 1
    """How many inputs of one channel a position sees: the size of a convolution's kernel."""
    batched_dims: int = 2
    """The least number of dimensions that an input with a batch dimension has."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        self.module = module
        self.weight: nn.Parameter = module.get_parameter(self.weight_name)
        self.bias: nn.Parameter | None = module.get_parameter(self.bias_name) if with_bias else None
        self.groups: int = 1
        self.batch_dim = 0
        self.also: tuple[nn.Module, ...] = ()
        """Other modules with the same weight, whose calls are the layer's, too."""
        self.found = False
        """Whether it stands for uses of a weight that no module's call stands for."""
        self.least_dtype = torch.float32

    @abstractmethod
    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        """The module's input as rows that W multiplies, in `dtype`; `with_ones` adds the bias's constant."""

    @abstractmethod
    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        """A tensor shaped like the module's output as rows, in `dtype`."""

    @abstractmethod
    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        """What the module would put out if `matrix` were its weights: `D a`, shaped like the output. Nothing is unfolded."""

    def multiplied(self, x: Tensor) -> Tensor:
        """The entries of an input that the weights multiply."""
        return x

    def refuses_call(self, args: tuple, kwargs: dict[str, Any]) -> str | None:
        """What the arguments of a call change, so that `activations` of its input alone would be wrong; None if nothing."""
        return None

    def weight_as_matrix(self, weight: Tensor) -> GradientMatrix:
        """A tensor shaped like the weight as a matrix `[*group, o, i]` without the bias; a view where that is possible.

        As given, for torch's layout: outputs first.
        """
        return weight if weight.dim() == 2 and self.groups == 1 else weight.reshape(*self.group_shape, self.outputs, -1)

    def matrix_as_weight(self, matrix: GradientMatrix) -> Tensor:
        """The inverse of `weight_as_matrix`."""
        return in_shape(matrix, *self.weight.shape)

    @property
    def outputs(self) -> int:
        """o, per group."""
        return self.weight.shape[0] // self.groups

    @property
    def inputs(self) -> int:
        """i, the bias's constant 1 included."""
        return self.weight.numel() // max(1, self.groups * self.outputs) + (self.bias is not None)

    @property
    def group_shape(self) -> tuple[int, ...]:
        """The leading dimension of a, g and the matrix: none without groups."""
        return (self.groups,) if self.groups > 1 else ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight first, then the bias if it is trained."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of statistics: float32 or better, whatever the parameters' dtype."""
        return torch.float64 if self.weight.dtype == torch.float64 else self.least_dtype

    def with_ones(self, a: Float[Tensor, "*group n s c"]) -> Float[Tensor, "*group n s i"]:
        """Rows with the bias's constant 1 in the last place; as they are if no bias is trained."""
        return a if self.bias is None else F.pad(a, (0, 1), value=1.0)

    def gradient(self) -> GradientMatrix:
        """The gradient of the loss as one matrix."""
        return self.matrix([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])

    def matrix(self, tensors: list[Tensor]) -> GradientMatrix:
        """Tensors shaped like `parameters` as one matrix, in the statistics' dtype; a view where that is possible."""
        dtype = self.dtype
        weight, *bias = tensors
        columns = self.weight_as_matrix(weight).to(dtype)
        return torch.cat([columns, *(b.reshape(*columns.shape[:-1], 1).to(dtype) for b in bias)], dim=-1) if bias else columns

    def split(self, matrix: GradientMatrix) -> list[Tensor]:
        """The inverse of `matrix`: one tensor per parameter, in its shape."""
        if self.bias is None:
            return [self.matrix_as_weight(matrix)]
        return [self.matrix_as_weight(matrix[..., :-1]), in_shape(matrix[..., -1], *self.bias.shape)]

    def batch_first(self, t: Tensor) -> Tensor:
        """An input or output with its samples in the first dimension; applied twice, as it was."""
        return t if self.batch_dim == 0 or t.dim() <= self.batch_dim + 1 else t.transpose(0, self.batch_dim)

    def check_batch(self, x: Tensor, name: str) -> None:
        """Raises ValueError if `x` has no batch dimension: a Fisher matrix is a mean over samples."""
        if x.dim() < self.batched_dims:
            raise ValueError(
                f"layer '{name}' got an input of shape {tuple(x.shape)}, which has no batch dimension: "
                f"{type(self.module).__name__} needs at least {self.batched_dims} dimensions here, put x.unsqueeze(0) in "
                "or its parameters into a group with curvature=False"
            )


def in_shape(t: Tensor, *shape: int) -> Tensor:
    """A tensor in a shape. One that has it is returned as it is: every operation counts in a step."""
    return t if t.shape == shape else t.reshape(shape)
