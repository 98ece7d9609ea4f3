"""Weights that are multiplied outside any module that stands for the product: found in use, and layers from then on.

`F.linear(x, self.qkv.weight)`, `x @ self.weight`, a Linear subclass with its own forward, a mixture's experts in one parameter
`[E, o, i]`: which matrix such a parameter is, only the product says. `lngd.capture.uses` sees it and makes a `Found`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lngd.layers.convolution import ConvLayer
from lngd.layers.layer import Layer, in_shape
from lngd.layers.linear import LinearLayer
from lngd.layers.transposed import ConvTransposeLayer
from lngd.types import GradientMatrix

MODULES: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


@dataclass(frozen=True)
class Form:
    """How a parameter is the matrix of a product.

    Attributes:
        outputs_first: the dimensions of the outputs stand before those of the inputs, as in nn.Linear.
        split: so many dimensions, after the experts', belong to the side that stands first.
        experts: the first dimension counts matrices, one for each expert.
        table: no matrix at all: entries that are added to activations, as embeddings of places are.
        convolution: stride, padding, dilation and groups, and the output padding of a transposed one; None for a matrix product.
    """

    outputs_first: bool = True
    split: int = 1
    experts: bool = False
    convolution: tuple[Any, ...] | None = None
    table: bool = False

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution's."""
        return self.convolution is not None and len(self.convolution) > len(("stride", "padding", "dilation", "groups"))

    def as_text(self) -> str:
        """A line, of which `of_text` makes the same."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, line: str) -> "Form":
        """The inverse of `as_text`."""
        fields = json.loads(line)
        if fields["convolution"] is not None:
            fields["convolution"] = tuple(tuple(x) if isinstance(x, list) else x for x in fields["convolution"])
        return cls(**fields)

    def matrix(self, weight: Tensor) -> Tensor:
        """A tensor shaped like the parameter as `[o, i]`, or `[E, o, i]`; a view of a contiguous one."""
        first = 1 if self.experts else 0
        sides = weight.shape[first : first + self.split], weight.shape[first + self.split :]
        flat = in_shape(weight, *weight.shape[:first], *(math.prod(side) for side in sides))
        return flat if self.outputs_first else flat.mT


@dataclass(eq=False)
class Found:
    """A parameter that was found in use.

    Attributes:
        bias: what the product adds, if that is a parameter, too.
    """

    weight: nn.Parameter
    form: Form
    bias_name: str = ""
    bias: nn.Parameter | None = None
    module: nn.Module = field(init=False)
    """What stands for the product among the layers."""

    def __post_init__(self) -> None:
        self.module = self._convolution() if self.form.convolution else Used(self.weight, self.bias, self.form)

    @property
    def adapter(self) -> type[Layer]:
        """The module as a layer."""
        if self.form.convolution:
            return ConvTransposeLayer if self.form.is_transposed else ConvLayer
        return ExpertsLayer if self.form.experts else UsedLayer

    def _convolution(self) -> nn.Module:
        assert self.form.convolution is not None
        stride, padding, dilation, groups, *more = self.form.convolution
        one, two, *kernel = self.weight.shape
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        options |= {"output_padding": more[0]} if more else {}
        sides = (one, two * groups) if more else (two * groups, one)
        with torch.device("meta"):
            module = (TRANSPOSED if more else MODULES)[len(kernel)](*sides, tuple(kernel), bias=self.bias is not None, **options)
        module.weight, module.bias = self.weight, self.bias
        return module


class Used(nn.Module):
    """What stands for the product with a weight that has no module; nobody calls it."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, form: Form) -> None:
        super().__init__()
        self.weight, self.bias, self.form = weight, bias, form


class UsedLayer(LinearLayer):
    """A parameter that is the matrix of a product, stored in any order."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        assert isinstance(module, Used)
        self.form = module.form
        super().__init__(module, with_bias=with_bias)

    @property
    def outputs(self) -> int:
        return self.form.matrix(self.weight).shape[-2]

    def weight_as_matrix(self, weight: Tensor) -> GradientMatrix:
        return self.form.matrix(weight)

    def matrix_as_weight(self, matrix: GradientMatrix) -> Tensor:
        return in_shape(matrix if self.form.outputs_first else matrix.mT, *self.weight.shape)


class ExpertsLayer(UsedLayer):
    """The experts of a mixture in one parameter, each a group with factors of its own.

    `x` is `[r, i + 1]`, rows of all experts, each with the number of its own in the last place. So `activations` and `gradients`
    have no group dimension; `by_expert` gives them one.
    """

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        super().__init__(module, with_bias=with_bias)
        self.groups = len(self.weight)

    @property
    def group_shape(self) -> tuple[int, ...]:
        return (self.groups,)

    @staticmethod
    def routed(rows: Float[Tensor, "r i"], experts: Int[Tensor, " r"]) -> Float[Tensor, "r i+1"]:
        """An input of this layer; in float32 at least, whose whole numbers are exact."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return torch.cat([rows, experts.to(rows.dtype).unsqueeze(1)], 1)

    def multiplied(self, x: Float[Tensor, "r _"]) -> Float[Tensor, "r _"]:
        return x[:, :-1]

    def activations(self, x: Float[Tensor, "r _"]) -> Float[Tensor, "r 1 _"]:
        return x[:, :-1].to(self.dtype).unsqueeze(1)

    def gradients(self, grad: Float[Tensor, "r o"]) -> Float[Tensor, "r 1 o"]:
        return grad.to(self.dtype).unsqueeze(1)

    def output(self, x: Float[Tensor, "r _"], matrix: GradientMatrix) -> Float[Tensor, "r o"]:
        rows, experts = x[:, :-1].to(matrix.dtype), x[:, -1].long()
        put_out = matrix.new_empty(len(x), matrix.shape[-2])
        for expert in experts.unique().tolist():
            own = experts == expert
            put_out[own] = rows[own] @ matrix[expert].mT
        return put_out

    def by_expert(
        self, x: Float[Tensor, "r _"], g: Float[Tensor, "r o"]
    ) -> tuple[Float[Tensor, "k n 1 i"], Float[Tensor, "k n 1 o"], Int[Tensor, " k"], Int[Tensor, " k"]]:
        """a and g of the experts that have rows, zeros behind them up to the fullest one's; which these are, and their rows."""
        used = x[:, :-1].any(1)  # rows that only fill up are no samples
        x, g = x[used], g[used]
        experts, place, counts = x[:, -1].long().unique(return_inverse=True, return_counts=True)
        order = place.argsort(stable=True)
        place = place[order]
        within = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[place]
        a, grads = self.activations(x), self.gradients(g)
        sorted_a = a.new_zeros(len(experts), int(counts.max()), *a.shape[1:])
        sorted_g = grads.new_zeros(len(experts), int(counts.max()), *grads.shape[1:])
        sorted_a[place, within], sorted_g[place, within] = a[order], grads[order]
        return sorted_a, sorted_g, experts, counts

    def placed(self, measured: Tensor, experts: Int[Tensor, " k"], share: Tensor | float) -> Tensor:
        """What was measured of some experts, `[k, …]`, times `share`, as that of all; zero for the others."""
        if measured.dim() == 0:
            return measured
        share = share.to(measured.dtype).view(-1, *[1] * (measured.dim() - 1)) if isinstance(share, Tensor) else share
        whole = measured.new_zeros(self.groups, *measured.shape[1:])
        return whole.index_copy_(0, experts, measured * share)


def filled(measured: Tensor) -> Tensor:
    """With the mean of the experts that saw anything for those that saw nothing: so their factors have inverses."""
    if measured.dim() == 0:
        return measured
    seen = measured.flatten(1).any(1).view(-1, *[1] * (measured.dim() - 1))
    mean = measured.sum(0) / seen.sum().clamp(min=1)
    return torch.where(seen, measured, mean)
