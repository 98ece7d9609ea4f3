"""Exact curvature of small models, layer by layer: what every approximation is measured against.

Everything is made from explicit per-sample Jacobians in float64, in evaluation mode (a layer that mixes samples, like BatchNorm,
has no per-sample Jacobian), and nothing is sampled. Conventions: the classes are the model's last output dimension and every
dimension between the first and the last is a position, whose labels are independent given the input: a sample's log-likelihood
is the sum over its positions of a softmax's log p(y|z). Blocks are means over samples, row-major with outputs first, as
`GradientMatrix.flatten(-2)` is.
"""

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lngd.layers import Layer, adapter_of
from lngd.types import Activations, Dense, GradientMatrix, Gradients

Pairs = tuple[Activations, Gradients]
Outputs = Float[Tensor, "n ... c"]


class ExactCurvature:
    """A model's curvature at some inputs. Every method takes a layer's name, as in `model.named_modules()`.

    Args:
        x: `[n, …]`, the inputs that blocks are means over.

    Raises:
        ValueError: outputs that are not finite.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.x = x.double() if x.is_floating_point() else x
        self.layers = dict(_layers(self.model))
        self.outputs = self.model(self.x)
        if not self.outputs.isfinite().all():
            raise ValueError("the outputs must be finite")

    def fisher(self, name: str) -> Dense:
        """F = E_x E_{y~p}[vec(∇log p) vec(∇log p)ᵀ], the expectation over labels done class by class."""
        rows = torch.einsum("kntc,...ntcw->...knw", self._scores(), self.jacobian(name)).flatten(-3, -2)
        return rows.mT @ rows / rows.shape[-2]

    def gradient(self, name: str, y: Tensor) -> GradientMatrix:
        """∇ of the mean over samples of −log p."""
        row = torch.einsum("ntc,...ntcw->...w", self._residual(y), self.jacobian(name)) / len(self.x)
        return row.unflatten(-1, (self.layers[name].outputs, -1))

    def label_pairs(self, name: str) -> Pairs:
        """(a, g) by back-propagation such that a block's `measure` is its exact expectation over labels.

        Every label of every position in turn, a repeated and g scaled with √(k·p_y) for the k repetitions: the statistics of all
        blocks are quadratic in g.
        """
        x, s, outputs = self._call(name)
        scores = self._scores().reshape(-1, *outputs.shape)
        g = torch.stack([torch.autograd.grad(outputs, s, score, retain_graph=True)[0] for score in scores])
        return _stacked(self.layers[name], x, g)

    def layerwise_pairs(self, name: str) -> Pairs:
        """(a, g) such that a block's `measure` is its exact expectation over the ε of g = Jᵩᵀε. Sequential models only.

        Each row of Jᵩ in turn, times √k for the k rows.
        """
        x, g = self._pulled_back(name)
        return _stacked(self.layers[name], x, g * len(g) ** 0.5)

    def jacobian(self, name: str) -> Float[Tensor, "*group n s c oi"]:
        """∂z/∂W of each sample."""
        layer, prefix = self.layers[name], f"{name}." if name else ""
        trained = {f"{prefix}{own}": p.detach() for own, p in layer.module.named_parameters(recurse=False)}

        def outputs(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
            return _by_position(functional_call(self.model, weights, (sample.unsqueeze(0),)))[0]

        found = vmap(jacrev(outputs), in_dims=(None, 0))(trained, self.x)
        rows = vmap(layer.matrix)([found[key].flatten(0, 2) for key in trained]).flatten(-2)  # [n·s·c, *group, oi]
        return rows.movedim(0, -2).unflatten(-2, _by_position(self.outputs).shape)

    def _residual(self, y: Tensor) -> Float[Tensor, "n s c"]:
        """r = −∇_z log p(y|z) = p − e_y at given labels."""
        z = self.outputs
        return _by_position(z.softmax(-1) - nn.functional.one_hot(y, z.shape[-1]))

    def _scores(self) -> Float[Tensor, "k n s c"]:
        """√(k·p_y) (p − e_y) for each class y and position, zero at the others: the mean of their outer products is E[r rᵀ]."""
        p = _by_position(self.outputs).softmax(-1)
        classes = p.shape[-1]
        weights = (classes * p).sqrt().movedim(-1, 0).unsqueeze(-1)
        scores = weights * (p - torch.eye(classes, dtype=p.dtype, device=p.device).reshape(classes, 1, 1, classes))
        positions = scores.shape[-2]
        alone = positions**0.5 * torch.eye(positions, dtype=scores.dtype, device=scores.device)
        return torch.einsum("kntc,pt->pkntc", scores, alone).flatten(0, 1)

    def _call(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's input, its pre-activation, and the outputs, joined by autograd's graph."""
        calls: list[tuple[Tensor, Tensor]] = []

        def keep(_: nn.Module, args: tuple, kwargs: dict, s: Tensor) -> Tensor:
            s = s.detach().requires_grad_()
            calls.append((args[0] if args else kwargs["input"], s))
            return s.clone()  # an activation that works in place must not change what is kept

        with self.layers[name].module.register_forward_hook(keep, with_kwargs=True):
            outputs = self.model(self.x)
        (call,) = calls
        return *call, outputs

    def _pulled_back(self, name: str) -> tuple[Tensor, Float[Tensor, "k n ..."]]:
        """The layer's input and the rows of Jᵩ, the Jacobian of the next layer's input in this layer's pre-activation."""
        x, s, _ = self._call(name)
        between = self._between(name)

        def next_input(sample: Tensor) -> Tensor:
            return between(sample.unsqueeze(0).clone()).flatten()  # cloned for activations that work in place

        return x, vmap(jacrev(next_input))(s.detach()).transpose(0, 1)

    def _between(self, name: str) -> nn.Sequential:
        """What stands between a layer and the next; nothing after the last one, whose next input is its own output."""
        chain = dict(self.model.named_children())
        names = list(chain)
        rest = names[names.index(name) + 1 :]
        following = [place for place, other in enumerate(rest) if other in self.layers]
        return nn.Sequential(*(chain[other] for other in rest[: following[0]])) if following else nn.Sequential()


def _layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    for name, module in model.named_modules():
        adapter = adapter_of(module)
        if adapter is not None:
            yield name, adapter(module, with_bias=getattr(module, "bias", None) is not None)


def _by_position(z: Outputs) -> Float[Tensor, "n s c"]:
    return z.reshape(len(z), -1, z.shape[-1])


def _stacked(layer: Layer, x: Float[Tensor, "n ..."], g: Float[Tensor, "k n ..."]) -> Pairs:
    """One sample for each of the k gradients, with the input repeated."""
    return layer.activations(torch.cat([x] * len(g))), layer.gradients(g.flatten(0, 1))
