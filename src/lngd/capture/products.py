"""Which calls of torch are products with what may be a weight, and which part of a parameter that weight is."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd.layers import Form, Layer
from lngd.sampling import alone
from lngd.sampling.draws import draw
from lngd.torch_private import saved_indices, view_base

Change = Callable[[Tensor], Tensor]
OPTIONS = ("stride", "padding", "dilation", "groups")
"""Of a convolution, in torch's order."""
TRANSPOSED_OPTIONS = ("stride", "padding", "output_padding", "groups", "dilation")
SEVERAL = ("stride", "padding", "dilation", "output_padding")
"""Those of which each dimension has its own."""
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}
ROW_BY_ROW = re.compile(
    "(Abs|Add|Addcmul|Alias|Clamp|ClampMax|ClampMin|Clone|Div|Dot|Exp|Expand|Mul|Mv|Neg|Permute|Pow|Reciprocal|ReshapeAlias"
    "|Rsqrt|Rsub|Select|Sigmoid|Slice|Softplus|Sqrt|Squeeze|Sub|T|ToCopy|Transpose|Unsqueeze|UnsafeView|Vdot|View|Where"
    "|Amax|Amin|LinalgVectorNorm|Max|Maximum|Mean|Min|Minimum|Norm|Std|StdMean|Sum|Var|VarMean|WeightNormInterface"
    "|CudnnBatchNorm|MiopenBatchNorm|NativeBatchNorm|NativeDropout|NativeLayerNorm)Backward[0-9]+"
)
"""Operations that scale a weight, shift it, mask it, norm it or standardise it, of which a row or an entry becomes another."""
LONGEST = 64
"""So many operations at most make a weight."""


@dataclass(frozen=True)
class Product:
    """A product: `[…, i]` times `[o, i]`, `[E, …, i]` times `[E, o, i]`, or a convolution.

    Attributes:
        x: the input, its inputs last, or as given for a convolution.
        weight: outputs before inputs, or as given for a convolution.
        bias: what is added to each row, if it is a tensor.
        to_rows: from something shaped like the output to one with the outputs last; None for a convolution's and where they are.
        convolution: as in `Form`.
        ends: of rows that are sorted by expert, where each expert's end.
        by_sample: each row, or block of rows, is a sample, however many the model's batch has.
    """

    x: Tensor
    weight: Tensor
    bias: Any = None
    to_rows: Change | None = None
    convolution: tuple | None = None
    ends: Tensor | None = None
    by_sample: bool = False


def _linear(x: Tensor, weight: Tensor, bias: Any = None) -> Product | None:
    return Product(x, weight, bias) if weight.dim() == 2 else None


def _matmul(x: Tensor, other: Tensor, **_: Any) -> Product | None:
    if may_be_weight(x) and not may_be_weight(other):
        return _from_the_left(x, other)
    fits = x.dim() and (other.dim() == 2 or (other.dim() == 3 and x.dim() == 3 and len(x) == len(other)))
    return Product(x, other.mT) if fits else None


def _from_the_left(weight: Tensor, x: Tensor) -> Product | None:
    """W x with the rows of x as columns; a vector is one."""
    if x.dim() == 1:
        return Product(x, weight) if weight.dim() == 2 else None
    fits = weight.dim() == 2 or (weight.dim() == 3 and x.dim() == 3 and len(x) == len(weight))
    return Product(x.mT, weight, to_rows=_transposed) if fits else None


def _transposed(t: Tensor) -> Tensor:
    return t.mT


def _addmm(bias: Any, x: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1, **_: Any) -> Product | None:
    return Product(x, other.mT, bias if beta == 1 else None) if alpha == 1 else None


def _grouped(x: Tensor, other: Tensor, *, offs: Tensor | None = None, **_: Any) -> Product | None:
    return Product(x, other.mT, ends=offs) if other.dim() == 3 and x.dim() == (3 if offs is None else 2) else None


def _convolution(order: tuple[str, ...], x: Tensor, weight: Tensor, bias: Any = None, *given: Any, **named: Any) -> Product:
    """`order`: in which torch's function takes its options."""
    options = {**DEFAULTS, **dict(zip(order, given, strict=False)), **named}
    stride, padding, dilation, more = (_several(options[name], weight.dim() - 2) for name in SEVERAL)
    extra = (more,) if "output_padding" in order else ()
    return Product(x, weight, bias, convolution=(stride, padding, dilation, options["groups"], *extra))


def _several(value: Any, space: int) -> tuple[int, ...] | str:
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * space if len(values) == 1 else values


def _einsum(equation: Any, *operands: Any) -> Product | None:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    given, out = equation.replace(" ", "").split("->")
    pairs = list(zip(operands, given.split(","), strict=True))
    (x, xs), (w, ws) = pairs if may_be_weight(operands[1]) else pairs[::-1]
    experts, summed = "".join(c for c in ws if c in xs and c in out), "".join(c for c in ws if c in xs and c not in out)
    outputs, rows = "".join(c for c in ws if c not in xs), "".join(c for c in xs if c not in ws)
    twice = any(len(set(names)) < len(names) for names in (xs, ws))
    if twice or len(experts) > 1 or not (summed and outputs) or set(out) != {*experts, *rows, *outputs}:
        return None
    kept = len(experts + rows)
    matrix = _permuted(w, ws, experts + outputs + summed).flatten(len(experts + outputs))
    return Product(
        _permuted(x, xs, experts + rows + summed).flatten(kept),
        matrix.flatten(len(experts), len(experts + outputs) - 1),
        to_rows=lambda t: _permuted(t, out, experts + rows + outputs).flatten(kept),
    )


def _permuted(t: Tensor, names: str, wanted: str) -> Tensor:
    return t.permute([names.index(name) for name in wanted])


def _reads(read: Callable[..., Product | None], *names: tuple[str, ...]) -> Callable[..., Product | None]:
    """A reader that is told operands by name, too: of each, in their order, all names that torch's functions have for it.

    A call that it can't read is none: torch decides whether that is an error.
    """

    def reading(*args: Any, **named: Any) -> Product | None:
        for own in names[len(args) :] if named else ():
            if (key := next((name for name in own if name in named), None)) is None:
                break
            args = (*args, named.pop(key))
        try:
            return read(*args, **named)
        except TypeError:
            return None

    return reading


_FIRST, _WEIGHTED = ("input", "self"), (("input",), ("weight",), ("bias",))
_READ_LINEAR, _READ_EINSUM = _reads(_linear, *_WEIGHTED), _reads(_einsum, ("equation",))
_READ_MATMUL = _reads(_matmul, _FIRST, ("other", "mat2", "tensor2"))
_READ_ADDMM = _reads(_addmm, _FIRST, ("mat1", "batch1"), ("mat2", "batch2"))
_READ_GROUPED = _reads(_grouped, (*_FIRST, "mat_a"), ("mat2", "mat_b"))
_READ_CONVOLUTION = _reads(partial(_convolution, OPTIONS), *_WEIGHTED)
_READ_TRANSPOSED = _reads(partial(_convolution, TRANSPOSED_OPTIONS), *_WEIGHTED)
PRODUCTS: dict[Any, Callable[..., Product | None]] = {
    F.linear: _READ_LINEAR,
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__), _READ_MATMUL),
    **dict.fromkeys((torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm), _READ_ADDMM),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _READ_CONVOLUTION),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _READ_TRANSPOSED),
    **dict.fromkeys([f for f in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None)) if f], _READ_GROUPED),
    torch.einsum: _READ_EINSUM,
}
"""By the function that torch says it calls."""


@dataclass(frozen=True)
class Part:
    """The part of a parameter's matrix that a product used.

    Attributes:
        outputs, inputs: where it begins, and how large the whole is.
        expert: which matrix; None for all of them, or if there is one.
        experts: of many matrices that were picked one by one, which.
        computed: what was computed from the parameter and used in its place.
    """

    outputs: tuple[int, int] = (0, 0)
    inputs: tuple[int, int] = (0, 0)
    expert: int | None = None
    experts: Tensor | None = None
    computed: Tensor | None = None


def may_be_weight(t: Tensor) -> bool:
    """Whether an operand is a parameter, a part of one, or some of its matrices."""
    return isinstance(origin(t)[0], nn.Parameter)


def origin(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The tensor that a weight is a view of, and of which matrices it has copies if it was picked by indices."""
    base = view_base(weight)
    base = weight if base is None else base
    if base.grad_fn is not None and (indices := saved_indices(base.grad_fn)) is not None:
        variable = getattr(base.grad_fn.next_functions[0][0], "variable", None)
        if variable is not None:
            return variable, indices
    return base, None


def computed_from(weight: Tensor) -> nn.Parameter | None:
    """The parameter that a tensor of as many entries was computed from, row by row: normed, standardised, scaled, masked, cast.

    Other parameters may take part, as long as they have other sizes: the lengths of its rows.
    """
    if weight.grad_fn is None or not weight.is_contiguous():
        return None
    waiting, seen, found = [weight.grad_fn], set[Any](), dict[int, nn.Parameter]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            if isinstance(variable, nn.Parameter) and variable.numel() == weight.numel():
                found[id(variable)] = variable
        elif len(seen) > LONGEST or ROW_BY_ROW.fullmatch(node.name()) is None:
            return None
        waiting += [child for child, _ in node.next_functions if child is not None]
    return next(iter(found.values())) if len(found) == 1 else None


def probed(computed: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Signs r, always the same ones, and Jᵀ r: J is that of the computation, which both have the parameter's shape."""
    generator = torch.Generator(computed.device).manual_seed(0)
    signs = draw("rademacher", generator, shape=computed.shape, dtype=computed.dtype, device=computed.device)
    with alone():
        (pulled,) = torch.autograd.grad(computed, parameter, signs, retain_graph=True)
    return signs.view(parameter.shape), pulled


def keeps_places(computed: Tensor, parameter: Tensor) -> bool:
    """Whether an entry of a computed weight stands where that of its parameter does: it is not transposed, rolled or mixed."""
    signs, pulled = probed(computed, parameter)
    there = pulled != 0  # a mask takes entries away
    return bool((signs * pulled).sum().abs() > 0.5 * pulled.norm() * there.sum().sqrt())


def row_lengths(layer: Layer, computed: Tensor) -> Tensor:
    """How far the rows of a computed weight move when those of its parameter move by one: `[*group, o]`, ‖(Jᵀ r)_o‖ / ‖r_o‖.

    Of a weight that is normed or standardised, J is a length times a projection that leaves almost all of a row, so F of the
    parameter is F of the weight times these lengths squared.
    """
    rows = layer.weight_as_matrix(probed(computed, layer.weight)[1].to(layer.dtype))
    return rows.norm(dim=-1) / rows.shape[-1] ** 0.5


def forms(parameter: Tensor) -> Iterator[Form]:
    """All that a parameter can be the matrix of."""
    for experts in (False, True):
        for split in range(1, parameter.dim() - experts):
            for outputs_first in (True, False):
                yield Form(outputs_first, split, experts)


def part_of(parameter: Tensor, form: Form, weight: Tensor, indices: Tensor | None) -> Part | None:
    """Which part of a parameter of that form, or of what stands for it, a weight is; None if it is none."""
    matrix = form.matrix(parameter.detach())
    if indices is not None:  # copies of matrices, whose own strides say whether they were transposed
        if not form.experts or weight.dim() != 3 or weight.shape[1:] != matrix.shape[1:]:
            return None
        wanted = torch.empty(parameter.shape[1:], device="meta")
        same = _same_strides(wanted if form.outputs_first else wanted.mT, weight[0])
        return Part(experts=indices, outputs=(0, matrix.shape[1]), inputs=(0, matrix.shape[2])) if same else None
    start, expert = int(weight.storage_offset() - matrix.storage_offset()), None
    if form.experts and weight.dim() == 3:
        if len(weight) != len(matrix) or weight.stride(0) != matrix.stride(0):
            return None
        weight, matrix = weight[0], matrix[0]
    elif form.experts:
        expert, start = divmod(start, max(1, matrix.stride(0)))
        if not 0 <= expert < len(matrix):
            return None
        matrix = matrix[0]
    if weight.dim() != 2 or not _same_strides(matrix, weight):
        return None
    rows, columns = matrix.stride()
    row, column = divmod(start, max(1, rows)) if form.outputs_first else divmod(start, max(1, columns))[::-1]
    if row + weight.shape[0] > matrix.shape[0] or column + weight.shape[1] > matrix.shape[1] or start < 0:
        return None
    return Part((row, matrix.shape[0]), (column, matrix.shape[1]), expert)


def _same_strides(matrix: Tensor, weight: Tensor) -> bool:
    return all(own == size or n == 1 for own, size, n in zip(matrix.stride(), weight.stride(), weight.shape, strict=True))


def is_all_of(weight: Tensor, parameter: Tensor) -> bool:
    """Whether a view is the parameter itself."""
    same_place = weight.storage_offset() == parameter.storage_offset()
    return same_place and weight.shape == parameter.shape and _same_strides(parameter, weight)


def is_whole(part: Part, weight: Tensor) -> bool:
    """Whether a matrix is used from its first row to its last."""
    return part.outputs == (0, weight.shape[-2]) and part.inputs == (0, weight.shape[-1])


def form_of(parameter: Tensor, product: Product, indices: Tensor | None) -> Form | None:
    """What a parameter is the matrix of, as its first product shows; None if that is nothing known."""
    weight = product.weight
    if product.convolution is not None:
        return Form(convolution=product.convolution) if is_all_of(weight, parameter) else None
    if not parameter.is_contiguous():
        return None
    for form in forms(parameter):
        part = part_of(parameter, form, weight, indices)
        if part is not None and (parameter.dim() == 2 or form.experts or is_whole(part, weight)):
            return form
    return None


def padded(t: Tensor, place: tuple[int, int]) -> Tensor:
    """Rows of a part as rows of the whole: zero where the part is not."""
    begin, size = place
    return t if t.shape[-1] == size else F.pad(t, (begin, size - begin - t.shape[-1]))
