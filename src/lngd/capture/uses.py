"""Products with a weight that no module's call stands for, seen as torch computes them.

While a forward is watched, torch tells a function mode what it computes. A product whose one operand is a parameter, a view of
one, or some of its matrices, is a use of that parameter. What a parameter is the matrix of, is known after the first forward that
is watched; from the next one on its uses are calls of a layer like any other's.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lngd.capture.compiled import named_modules
from lngd.capture.graph import OpenActivation, borrowed, pre_activation
from lngd.capture.products import (
    PRODUCTS,
    Change,
    Part,
    Product,
    computed_from,
    form_of,
    is_all_of,
    keeps_places,
    origin,
    padded,
    part_of,
    row_lengths,
)
from lngd.capture.recurrent import RECURRENT
from lngd.layers import ExpertsLayer, Found, Layer
from lngd.layers.used import Form, Used
from lngd.torch_private import saves_elsewhere

SUMS = (torch.add, Tensor.add, Tensor.add_)


class WatchedFunctions(TorchFunctionMode):
    """Tells its owner, as long as there is one, of each product that torch computes in this thread while it is entered.

    Attributes:
        opens_recurrent: whether recurrent networks are computed product by product.
    """

    def __init__(self, told: Callable[[Product], Change | None], told_sum: Callable[[Tensor, Tensor], None]) -> None:
        """Methods: `told` gives what a product's output becomes, or None for one of no interest; `told_sum` sees two terms."""
        super().__init__()
        self._told, self._told_sum = weakref.WeakMethod(told), weakref.WeakMethod(told_sum)
        self.entered = self.opens_recurrent = False

    def enter(self) -> None:
        """The forward begins. One that was interrupted by the keyboard may have left it entered."""
        if not self.entered:
            self.entered = True
            self.__enter__()

    def leave(self) -> None:
        """It has ended."""
        self.entered = False
        self.__exit__(None, None, None)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if self.opens_recurrent and function in RECURRENT and torch.is_grad_enabled() and not (kwargs or saves_elsewhere()):
            return RECURRENT[function](self._linear, *args)  # a checkpoint would not compute the same once more
        if function in SUMS and len(args) == 2 and (told_sum := self._told_sum()) is not None:
            told_sum(*args)
        read = PRODUCTS.get(function)
        told = self._told() if read is not None and "out" not in kwargs else None
        if read is None or told is None or not torch.is_grad_enabled():
            return function(*args, **kwargs)
        product = read(*args, **kwargs)
        opened = None if product is None else told(product)
        output = function(*args, **kwargs)
        return output if opened is None or not output.requires_grad else opened(output)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A product inside a recurrent network, one row a sample."""
        told, output = self._told(), F.linear(x, weight, bias)
        opened = None if told is None else told(Product(x, weight, bias, by_sample=True))
        return output if opened is None or not output.requires_grad else opened(output)


class Uses:
    """What is known of the weights that are used without their modules."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}
        """Candidates whose use was seen since `watch`, by name."""
        self.running: nn.Module | None = None
        """The layer whose own forward runs: what it computes with its weight is its call."""
        self._names: dict[int, tuple[str, nn.Parameter]] = {}
        self._parameters: Mapping[str, nn.Parameter] = {}
        self._gathered: dict[int, tuple[nn.Parameter, str]] = {}
        self._candidates = set[str]()
        self._layers: dict[str, Layer] = {}
        self.any = False
        """Whether there are layers whose calls only the function mode sees."""

    def watch(self, layers: Mapping[str, Layer], parameters: Mapping[str, nn.Parameter], candidates: Iterable[str]) -> None:
        """From now on uses of these layers' weights are calls, and those of the candidates are remembered."""
        self._layers = {name: layer for name, layer in layers.items() if layer.found}
        self._candidates = set(candidates)
        self._parameters = parameters
        self._names = {id(p): (name, p) for name, p in parameters.items()}
        for gathered, name in self._gathered.values():
            if name in parameters:
                self._names[id(gathered)] = name, parameters[name]
        self.found.clear()
        self.any = bool(self._layers)

    @property
    def searching(self) -> bool:
        """Whether there are weights of which nobody knows how they are used."""
        return bool(self._candidates)

    def gathered(self, module: nn.Module, prefix: str) -> None:
        """The parameters in a sharded module have been gathered: whole ones stand for them, always the same."""
        for inner, owner in named_modules(module):
            for key, p in owner._parameters.items():
                if p is not None and id(p) not in self._names:
                    name = ".".join(filter(None, (prefix, inner, key)))
                    known = self._parameters.get(name)
                    if known is not None and known.shape == p.shape:
                        self._gathered[id(p)] = p, name
                        self._names[id(p)] = name, known

    def settle(self, called: Iterable[Layer]) -> None:
        """Layers whose modules were called are not looked for any more."""
        self._candidates -= {self._names[id(layer.weight)][0] for layer in called}

    def layer_of(self, product: Product) -> tuple[str, Layer, Part] | None:
        """Whose call a product is; a candidate's use is remembered, and nobody's call yet."""
        base, indices = origin(product.weight)
        name, parameter = self._names.get(id(base), ("", None))
        whole, leaf = base, base  # what the product used a part of; the parameter as it is now
        if parameter is None and indices is None and (known := computed_from(base)) is not None:
            name, parameter = self._names.get(id(known), ("", None))
            leaf = known
            whole = base.detach().view(known.shape)
        if parameter is None:
            return None
        if name in self._layers:
            layer = self._layers[name]
            if isinstance(layer.module, Used):
                part = part_of(whole, layer.module.form, product.weight, indices)
            else:
                part = Part() if product.convolution is not None and is_all_of(product.weight, whole) else None
            if part is None:
                return None
            return name, layer, part if whole is base else replace(part, computed=base)
        if name in self._candidates and name not in self.found and not self._is_own(leaf):
            form = form_of(whole, product, indices)
            if form is not None and (whole is base or keeps_places(base, leaf)):
                self.found[name] = self._made(parameter, form, product)
        return None

    def _is_own(self, leaf: Tensor) -> bool:
        """Whether it is a parameter of the layer whose forward runs."""
        return self.running is not None and any(leaf is p for p in self.running._parameters.values())

    def sees_sum(self, one: Any, other: Any) -> None:
        """A candidate that is added to more entries than it has, those of a batch, is a table; one whose rows are picked, too."""
        for term, rest in ((one, other), (other, one)) if self._candidates else ():
            if not isinstance(term, Tensor) or not isinstance(rest, Tensor):
                return
            base, indices = origin(term)
            name, parameter = self._names.get(id(base), ("", None))
            if parameter is None or name not in self._candidates or name in self.found or self._is_own(base):
                continue
            if rest.numel() > term.numel() or (indices is not None and parameter.dim() == 2):
                self.found[name] = Found(parameter, Form(table=True))

    def _made(self, parameter: nn.Parameter, form: Form, product: Product) -> Found:
        bias_name, bias = self._names.get(id(product.bias), ("", None))
        whole = product.convolution is not None or product.weight.numel() == parameter.numel()
        if form.experts or not whole or bias is None or bias.shape != product.bias.shape or bias.dim() != 1:
            bias_name, bias = "", None
        return Found(parameter, form, bias_name, bias)


def opened_use(
    output: Tensor, *, name: str, layer: Layer, part: Part, product: Product, n: int | None, batch_dim: int
) -> tuple[Tensor, OpenActivation]:
    """What stands for a product's output, and the call that it is. `n` and `batch_dim` are of experts' rows and of `folding`."""
    output, edge = pre_activation(output)
    x, lent = borrowed(edge, product.x)
    shape = output.shape
    to_rows = product.to_rows

    lengths = None if part.computed is None else row_lengths(layer, part.computed)

    def rows(gradient: Tensor) -> Tensor:
        gradient = gradient if gradient.shape == shape else gradient.reshape(shape)
        gradient = gradient if to_rows is None else to_rows(gradient)
        if lengths is None:
            return gradient
        if product.convolution is not None:
            return gradient * lengths.reshape(-1, *[1] * (gradient.dim() - 2))
        return gradient * lengths[part.outputs[0] :][: gradient.shape[-1]]

    if product.convolution is not None:
        return output, OpenActivation(name, layer.module, x, edge, rows, shape=shape, dtype=output.dtype, lent=lent)
    if isinstance(layer, ExpertsLayer):

        def as_expert_rows(gradient: Tensor) -> Tensor:
            g = rows(gradient)
            return padded(g.reshape(-1, g.shape[-1]), part.outputs)

        routed = routed_rows(layer, x, part, product)
        made = OpenActivation(name, layer.module, routed, edge, as_expert_rows, shape=shape, dtype=output.dtype, batch=n)
        return output, made
    fold = folding(x.dim(), n, batch_dim)

    def as_output(gradient: Tensor) -> Tensor:
        return padded(fold(rows(gradient)), part.outputs)

    made = OpenActivation(name, layer.module, fold(x), edge, as_output, shape=shape, dtype=output.dtype, lent=lent)
    if x.shape[-1] != part.inputs[1]:
        made.as_input = partial(padded, place=part.inputs)
    return output, made


def rows_of(product: Product) -> int:
    """How many rows, or images, are multiplied."""
    x = product.x
    return len(x) if product.convolution is not None else x.numel() // max(1, x.shape[-1])


def batch_of(given: Any, batch_dim: int) -> int | None:
    """The samples in the first tensor of more than one dimension among a model's arguments, also in what they hold."""
    if isinstance(given, Tensor):
        return given.shape[batch_dim] if given.dim() > max(1, batch_dim) else None
    inside = given.values() if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else ()
    return next((n for each in inside if (n := batch_of(each, batch_dim)) is not None), None)


def folding(dims: int, n: int | None, batch_dim: int) -> Callable[[Tensor], Tensor]:
    """Makes samples and positions of rows `[…, d]`, and of the gradient of as many.

    Args:
        dims: of what is given; a vector is one sample.
        n: the samples whose positions the rows in the first dimension are: windows, or tokens in one dimension; None if
            that dimension counts samples, or is no row's.
        batch_dim: where the samples are, or come in an order that counts them last.
    """
    if dims == 1:
        return lambda t: t.unsqueeze(0)
    if n is not None:
        return (lambda t: t.unflatten(0, (-1, n)).transpose(0, 1)) if batch_dim else (lambda t: t.unflatten(0, (n, -1)))
    return (lambda t: t.transpose(0, batch_dim)) if 0 < batch_dim < dims - 1 else (lambda t: t)


def routed_rows(layer: ExpertsLayer, x: Tensor, part: Part, product: Product) -> Tensor:
    """The rows of a product with experts' matrices, each with the number of its expert."""
    rows = x.reshape(-1, x.shape[-1])
    place = torch.arange(len(rows), device=x.device)
    if part.expert is not None:
        experts = torch.full_like(place, part.expert)
    elif product.ends is not None:
        experts = torch.bucketize(place, product.ends.to(place.dtype), right=True)
    else:
        experts = place // max(1, len(rows) // max(1, len(x)))
        experts = experts if part.experts is None else part.experts[experts]
    return layer.routed(padded(rows, part.inputs), experts)
