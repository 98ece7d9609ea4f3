"""Algorithm 1 of the LNGD paper for a multilayer perceptron, written to be read: torch alone, no hooks, no blocks, no buckets.

It trains to the same weights as `LNGD(model, lr=…, **PAPER)`, which tests/test_reference.py checks; docs/algorithm.md puts it
beside the paper's formulas. A comment names the equation, in brackets, or the line of Algorithm 1. "Ours" marks what the paper
leaves open, or prints otherwise, and the library decides. Shapes: n samples, i inputs, o outputs.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import vjp


class Layer:
    """θ of one layer, and what the algorithm keeps of it from step to step."""

    def __init__(self, linear: nn.Linear) -> None:
        bias = [] if linear.bias is None else [linear.bias.unsqueeze(1)]
        self.theta = torch.cat([linear.weight, *bias], 1).detach()  # θ = [W b], [o, i]; ours: the bias belongs to a last input, 1
        self.ones = len(bias)
        self.activation = nn.Sequential()  # φ, from s to the next layer's input; the identity at the end, where g = ε
        outputs, inputs = self.theta.shape
        self.phi = self.theta.new_zeros(inputs, inputs)  # line 1: Φ, [i, i]
        self.psi = self.theta.new_zeros(outputs)  # line 1: the diagonal of Ψ, [o]
        self.measurements = 0  # that are in Φ and Ψ
        self.phi_inverse: Tensor  # Φ̂⁻¹
        self.psi_inverse: Tensor  # Ψ̂⁻¹
        self.m = torch.zeros_like(self.theta)  # line 1: m ← 0


@dataclass
class Algorithm1:
    """Trains a copy of the weights of `model`, linear layers with activations between them. The defaults are the paper's.

    Raises:
        TypeError: the model does not begin and end with nn.Linear, or an activation works in place and so overwrites s.
    """

    model: nn.Sequential
    _: KW_ONLY
    lr: float  # α
    generator: torch.Generator  # of ε; ours: drawn layer by layer in the order of the forward, at measuring steps only
    mu: float = 1e-8  # µ; ours: the paper gives no value
    damping: float = 1.0  # ours: a factor on tr/dim, which the paper's formula does not have
    damping_bounds: tuple[float, float] = (1e-5, 1e-2)  # ν₁, ν₂
    momentum: float = 0.9  # τ
    decay: float = 0.95  # ϵ
    curvature_every: int = 100  # T_FIM
    inverse_every: int = 100  # T_INV
    weight_decay: float = 0.004

    def __post_init__(self) -> None:
        modules = list(self.model)
        linear_ends = all(isinstance(module, nn.Linear) for module in modules[:1] + modules[-1:])
        if not modules or not linear_ends or any(getattr(module, "inplace", False) for module in modules):
            raise TypeError(f"the model must begin and end with nn.Linear, with no inplace=True between, but it is {self.model}")
        self.layers: list[Layer] = []
        for module in modules:
            if isinstance(module, nn.Linear):
                self.layers.append(Layer(module))
            else:
                self.layers[-1].activation.append(module)
        self.k = 0  # line 1

    @torch.no_grad()
    def step(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Lines 3–18 on one mini-batch: `loss` turns the predictions into a mean over samples. Returns it as it was before."""
        with torch.enable_grad():
            inputs, outputs = self.forward(x)
            h = loss(outputs[-1])
        upstream = torch.autograd.grad(h, outputs)  # line 11: back-propagation, ∂h/∂s of every layer
        for layer, a, s, ds in zip(self.layers, inputs, outputs, upstream, strict=True):  # line 4
            if self.k % self.curvature_every == 0:  # line 5
                self.measure(layer, a, s)  # line 6
            if self.k % self.inverse_every == 0:  # line 8
                self.refresh(layer)  # line 9
            gradients = len(x) * ds[:, :, None] * a[:, None, :]  # line 11: ∇⁽ⁿ⁾ of each sample, [n, o, i]; h is their mean
            self.update(layer, gradients)  # lines 12–16
        self.k += 1  # line 18
        return h.detach()

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's a and s; the last s is the prediction."""
        inputs, outputs = [], []
        for layer in self.layers:
            inputs.append(F.pad(x, (0, layer.ones), value=1.0))  # a, [n, i]
            outputs.append((inputs[-1] @ layer.theta.T).requires_grad_())  # s = θ a, [n, o]
            x = layer.activation(outputs[-1])  # φ(s)
        return inputs, outputs

    def measure(self, layer: Layer, a: Tensor, s: Tensor) -> None:
        """Φ and Ψ of this batch, by layer-wise sampling, into their averages."""
        epsilon = torch.empty_like(layer.activation(s)).normal_(generator=self.generator)  # sec. 3.1: ε = â − φ(s) ~ N(0, I)
        _, g = vjp(layer.activation, s, epsilon)  # g = Jᵩ(s)ᵀ ε, which is φ'(s) ∘ ε if φ is element-wise, [n, o]
        aa, gg = a.square().sum(1), g.square().sum(1)  # aᵀa and gᵀg of each sample, [n]
        phi = torch.einsum("n,ni,nj->ij", gg, a, a) / len(a)  # (4): Φ = E[(gᵀg) a aᵀ]
        psi = torch.einsum("n,no->o", aa, g.square()) / len(a)  # (5): E[(aᵀa) diag(g gᵀ)], diagonal because of (3)
        psi = psi / (aa * gg).mean().clamp(min=torch.finfo(psi.dtype).tiny)  # (5): / E[(aᵀa)(gᵀg)]; ours: 0 where no g reaches
        layer.measurements += 1
        new = (1 - self.decay) / (1 - self.decay**layer.measurements)  # (14): 1 − ϵ; ours: as if zeros had never been averaged in
        layer.phi = (1 - new) * layer.phi + new * phi  # (14)
        layer.psi = (1 - new) * layer.psi + new * psi  # (14)

    def refresh(self, layer: Layer) -> None:
        """The inverses of the damped factors."""
        identity = torch.eye(len(layer.phi), dtype=layer.phi.dtype, device=layer.phi.device)
        layer.phi_inverse = torch.linalg.inv(layer.phi + self.shift(layer.phi.diag()) * identity)  # Φ̂ = Φ + λ_Φ I
        layer.psi_inverse = 1 / (layer.psi + self.shift(layer.psi))  # Ψ̂ = Ψ + λ_Ψ I

    def shift(self, diagonal: Tensor) -> Tensor:
        """λ of the factor with this diagonal."""
        return (self.damping * diagonal.mean()).clamp(*self.damping_bounds)  # sec. 3.3: λ = clip(tr/dim, ν₁, ν₂)

    def update(self, layer: Layer, gradients: Tensor) -> None:
        """A step of θ from every sample's own gradient."""
        gradient = gradients.mean(0)  # line 11: ∇
        d = layer.psi_inverse[:, None] * gradient @ layer.phi_inverse  # line 12: Ψ̂⁻¹ ∇ Φ̂⁻¹, which is (Φ̂⁻¹ ⊗ Ψ̂⁻¹) vec(∇)
        dFd = (gradients * d).sum((1, 2)).square().mean()  # (13): dᵀFd = (1/N) Σₙ ⟨d, ∇⁽ⁿ⁾²
        alpha = (d * gradient).sum() / (dFd + self.mu)  # line 13, (12): α_l = ⟨d, ∇⟩ / (dᵀFd + µ)
        zeta = -self.lr * alpha * d  # line 14
        layer.m = self.momentum * layer.m + zeta  # line 15
        layer.theta = (1 - self.lr * self.weight_decay) * layer.theta + layer.m  # line 16; ours: weight decay is decoupled
