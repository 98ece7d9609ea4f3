"""An adapter against autograd, for one module and one batch of inputs."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lngd.layers.attention import AttentionInput
from lngd.layers.kinds import refuse_incomplete, registered_adapter, why_not
from lngd.layers.layer import Layer
from lngd.types import OneHot, written_out

TOLERANCE = 1e-9
"""Of a difference, as a share of the largest entry; rounding in float64 is far below, whatever is wrong is far above."""
SAMPLES = 8
"""How many samples, at most, are also looked at alone."""


def check_layer(module: nn.Module, inputs: Tensor, *, adapter: type[Layer] | None = None) -> None:
    """Holds an adapter against autograd; returns if all is right. The module is copied, in float64, and not changed.

    With the bias trained and, where there is one, with the bias frozen: `split` inverts `matrix`; `output` is the module's own,
    for its weights and others, and linear in them; `a` and `g` have the right shapes and dtypes, `g aᵀ` summed is the weight's
    gradient, W a is the output, and each sample's part depends on that sample only.

    Args:
        module: of a class that has an adapter.
        inputs: what it is called with, at least two samples, with more than one position if it takes any.
        adapter: the one to check, registered or not; None for the module's own.

    Raises:
        TypeError: `adapter` is no complete subclass of `Layer`.
        ValueError: what does not hold, by how much, and what to do; or the module can't be checked, and why.
    """
    if adapter is not None:
        refuse_incomplete(adapter)
    chosen = _adapter_for(module, adapter)
    twin = copy.deepcopy(module).double().requires_grad_(False)
    own = dict(twin.named_parameters(recurse=False))
    if chosen.weight_name not in own:
        raise ValueError(
            f"{type(module).__name__} has no parameter '{chosen.weight_name}' of its own: "
            f"set {chosen.__name__}.weight_name to one of {', '.join(map(repr, own)) or 'none'}"
        )
    if inputs.shape[:1].numel() < 2 or (inputs.is_floating_point() and not inputs.isfinite().all()):
        raise ValueError(f"the inputs, of shape {tuple(inputs.shape)}, are no two samples of finite numbers: give two or more")
    x = inputs.double() if inputs.is_floating_point() else inputs
    with torch.enable_grad():
        for with_bias in [False, True] if chosen.bias_name in own else [False]:
            _Check(chosen(twin, with_bias=with_bias), x).run()


def _adapter_for(module: nn.Module, given: type[Layer] | None) -> type[Layer]:
    """The adapter to check, if it can be."""
    adapter, kind = given or registered_adapter(module), type(module).__name__
    if adapter is None:
        raise ValueError(f"{kind} has no adapter: register_layer({kind}, adapter) gives it one")
    if issubclass(adapter, AttentionInput):
        raise ValueError(f"the in-projection of {kind} is read off the autograd graph: check_layer does not check attention")
    if (reason := why_not(module, adapter)) is not None:
        raise ValueError(f"this {kind} has no curvature: {reason}")
    return adapter


class _Check:
    """One adapter of one module in float64. Random weights take turns with the module's own, which may be zero."""

    def __init__(self, layer: Layer, x: Tensor) -> None:
        self.layer, self.x = layer, x
        self.kind = type(layer.module).__name__
        layer.check_batch(x, self.kind)
        if (reason := layer.refuses_call((x,), {})) is not None:
            raise ValueError(f"{type(layer).__name__} refuses the call: {reason}")
        self.random = torch.Generator(x.device).manual_seed(0)
        self.own = [p.detach() for p in layer.parameters]
        self.others = [self._noise(p) for p in layer.parameters]
        self.upstream = self._noise(self._put_out(self.others))

    def run(self) -> None:
        """Raises ValueError at the first thing that does not hold."""
        self._check_matrix()
        self._check_output()
        a, g = self._rows()
        self._check_products(a)
        self._check_gradient(torch.einsum("...nso,...nsi->...oi", g, a), slice(None), "Σ g aᵀ")
        for k in range(0, len(self.x), -(-len(self.x) // SAMPLES)):
            alone = torch.einsum("...so,...si->...oi", g[..., k, :, :], a[..., k, :, :])
            self._check_gradient(alone, slice(k, k + 1), f"Σ g aᵀ of sample {k}, which must not depend on others,")

    def _check_matrix(self) -> None:
        layer, weight = self.layer, self.others[0]
        wanted = (*layer.group_shape, layer.outputs, layer.inputs - (layer.bias is not None))
        what = f"weight_as_matrix of a weight of shape {list(weight.shape)}"
        self._check_shape(
            layer.weight_as_matrix(weight), wanted, what, "it must give [*group, o, i], as `outputs` and `groups` say"
        )
        for expected, found in zip(self.others, layer.split(layer.matrix(self.others)), strict=True):
            advice = "`matrix_as_weight` must be the inverse of `weight_as_matrix`"
            self._check(found, expected, "split(matrix(parameters))", advice)

    def _check_output(self) -> None:
        matrices = [self.layer.matrix(weights) for weights in (self.own, self.others)]
        own, others = (self.layer.output(self.x, matrix) for matrix in matrices)
        advice = f"it must give what {self.kind} puts out with these weights"
        self._check(own, self._put_out(self.own), "output(x, matrix) for the module's own weights", advice)
        self._check(others, self._put_out(self.others), "output(x, matrix) for other weights", advice)
        mixed = self.layer.output(self.x, matrices[0] - 2 * matrices[1])
        advice = f"{self.kind} must be linear in its weights, anything else belongs into another module"
        self._check(mixed, own - 2 * others, "output(x, matrix) for a sum of weights", advice)
        self._check_dtype(self.layer.output(self._single(self.x), matrices[0]), "output")

    def _rows(self) -> tuple[Tensor, Tensor]:
        """a and g, if their shapes and dtypes are right."""
        layer = self.layer
        a, g = layer.activations(self.x), layer.gradients(self.upstream)
        if isinstance(a, OneHot) != layer.one_hot:
            given = f"one_hot = {layer.one_hot}, but `activations` gives a {type(a).__name__}"
            raise ValueError(f"{type(layer).__name__} says {given}: let them agree")
        rows = (*layer.group_shape, len(self.x), *g.shape[-2:-1])  # as many positions as g has
        self._check_shape(g, (*rows, layer.outputs), "g", "`gradients` must give [*group, n, s, o]")
        advice = "`activations` must give [*group, n, s, i] for as many positions, and `with_ones` adds the bias's input"
        self._check_shape(a, (*rows, layer.inputs), "a", advice)
        self._check_dtype(layer.activations(self._single(self.x)), "activations")
        self._check_dtype(layer.gradients(self._single(self.upstream)), "gradients")
        return written_out(a), g

    def _check_products(self, a: Tensor) -> None:
        """The output is W a; were a twice as large and g half, the gradient would not show it."""
        is_input = (a != 0).any(-1, keepdim=True)  # an embedding's padding is none
        products = torch.einsum("...nsi,...oi->...nso", a, self.layer.matrix(self.others))
        found = self.layer.gradients(self._put_out(self.others)) * is_input
        self._check(products, found, "W a", "`activations` must be what the weights multiply, `gradients` only gives rows")

    def _check_gradient(self, total: Tensor, chosen: slice, what: str) -> None:
        """Of some samples, against autograd's."""
        weights = [weight.clone().requires_grad_() for weight in self.others]
        output = self._put_out(weights, chosen)
        if not output.requires_grad:
            raise ValueError(f"the output of {self.kind} has no gradient: it must be computed from the module's parameters")
        grads = torch.autograd.grad(output, weights, self.upstream[chosen], materialize_grads=True)
        names = (self.layer.weight_name, self.layer.bias_name)
        for name, found, expected in zip(names, self.layer.split(total), grads, strict=False):
            advice = f"it must be the gradient of '{name}', so `activations` and `gradients` must agree row by row"
            self._check(found, expected, what, advice)

    def _put_out(self, weights: list[Tensor], chosen: slice = slice(None)) -> Tensor:
        """What the module puts out with these weights; a bias that is not trained is zero."""
        layer, own = self.layer, dict(self.layer.module.named_parameters(recurse=False))
        values = dict(zip((layer.weight_name, layer.bias_name), weights, strict=False))
        if layer.bias is None and layer.bias_name in own:
            values[layer.bias_name] = torch.zeros_like(own[layer.bias_name])
        output = functional_call(layer.module, values, (self.x[chosen],))
        if not isinstance(output, Tensor):
            raise ValueError(f"{self.kind} gives a {type(output).__name__}: a layer with curvature gives one tensor")
        return output

    def _check(self, found: Tensor, expected: Tensor, what: str, advice: str) -> None:
        self._check_shape(found, tuple(expected.shape), what, advice)
        if not expected.numel():
            return
        gap, largest = (found - expected).abs().max(), expected.abs().max()
        if not gap <= TOLERANCE * largest:
            wrong = f"{what} is wrong by up to {gap:.3g}, where the largest entry is {largest:.3g}"
            raise ValueError(f"{type(self.layer).__name__} on {self.kind}: {wrong}; {advice}")

    def _check_shape(self, found: Tensor | OneHot, wanted: tuple[int, ...], what: str, advice: str) -> None:
        if tuple(found.shape) != wanted:
            wrong = f"{what} has shape {list(found.shape)}, not {list(wanted)}"
            raise ValueError(f"{type(self.layer).__name__} on {self.kind}: {wrong}; {advice}")

    def _check_dtype(self, found: Tensor | OneHot, method: str) -> None:
        """Of what a method makes of float32: mixed precision gives it other dtypes than the weight's."""
        if found.dtype != self.layer.dtype:
            wrong = f"`{method}` gives {found.dtype} where the weight has {self.layer.dtype}"
            raise ValueError(f"{type(self.layer).__name__} on {self.kind}: {wrong}; convert what comes in with .to(self.dtype)")

    def _single(self, t: Tensor) -> Tensor:
        return t.float() if t.is_floating_point() else t

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=torch.float64, device=like.device, generator=self.random)
