"""nn.MultiheadAttention uses the weights of its two projections without calling a module: its calls are read off the graph.

From the module's output the autograd graph leads back to the weights. The node that has a weight as its operand is the product
with it: the gradient that arrives there is g, and what the node has saved is the other operand. Rows of these products are
ordered by position first, then by sample, whatever `batch_first` says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from lngd.capture.graph import OpenActivation
from lngd.layers import AttentionInput, in_groups
from lngd.torch_private import LEFT_OPERANDS, saves_elsewhere

ALL_ROWS = slice(0, 3)
PIECES = {"SplitWithSizesBackward0": (slice(0, 1), slice(1, 3)), "SplitBackward0": (slice(0, 1), slice(1, 2), slice(2, 3))}
"""Which of queries, keys and values an output of a split weight belongs to: attention to a memory, and to two."""
PASSED = {"TBackward0", "ToCopyBackward0", "TransposeBackward0"}


@dataclass(frozen=True)
class Product:
    """A matrix product with a weight: its node, and the groups of the weight's rows that it used."""

    node: Node
    groups: slice


def attention_inputs(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value."""
    names = ("query", "key", "value")
    query, key, value = (args[k] if k < len(args) else kwargs[name] for k, name in enumerate(names))
    return query, key, value


def products_with(weight: nn.Parameter, output: Tensor, given: Iterable[Any]) -> list[Product]:
    """Every product with a weight between a module's output and the tensors it was given: inputs, masks."""
    return list(_search(weight, output.grad_fn, {x.grad_fn for x in given if isinstance(x, Tensor)}))


def open_input_projection(
    name: str, layer: AttentionInput, product: Product, inputs: tuple[Tensor, Tensor, Tensor]
) -> OpenActivation:
    """The call of an in-projection. `inputs` are batch first, `[n, s, e]`."""
    source, groups = inputs[product.groups.start].detach(), product.groups
    n, s, e = source.shape
    count = groups.stop - groups.start

    def as_output(g: Tensor) -> Tensor:
        return in_groups(g.reshape(s, n, count, e).permute(1, 2, 0, 3), groups)

    shape, as_input = torch.Size((s * n, count * e)), partial(layer.inputs_of, groups=groups)
    edge = GradientEdge(product.node, 0)
    return OpenActivation(
        name, layer.module, source, edge, as_output, shape=shape, dtype=source.dtype, as_input=as_input, positions=s
    )


def open_output_projection(name: str, module: nn.Module, product: Product, x: Tensor, batch: int) -> OpenActivation:
    """The call of an out-projection; `x` `[s·n, e]` as the product has it."""
    rows = len(x)

    def batch_first(t: Tensor) -> Tensor:
        return t.reshape(rows // batch, batch, -1).transpose(0, 1)

    edge = GradientEdge(product.node, 0)
    return OpenActivation(
        name, module, batch_first(x.detach()), edge, batch_first, shape=x.shape, dtype=x.dtype, lent=not saves_elsewhere()
    )


def _search(weight: nn.Parameter, start: Node | None, stops: set[Node | None]) -> Iterator[Product]:
    waiting, seen = [start], {*stops, None}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for child, output_nr in node.next_functions:
            groups = _rows_of(weight, child, output_nr)
            if groups is not None and node.name() in LEFT_OPERANDS:
                yield Product(node, groups)
            waiting.append(child)


def _rows_of(weight: nn.Parameter, node: Node | None, output_nr: int) -> slice | None:
    """Which rows of the weight a node passes on as they are; None if it is something else."""
    groups = ALL_ROWS
    while node is not None and getattr(node, "variable", None) is not weight:
        name = node.name()
        if name in PIECES:
            groups = PIECES[name][output_nr]
        elif name not in PASSED:
            return None
        node, output_nr = node.next_functions[0]
    return None if node is None else groups
