"""The step against a plain transcription of Algorithm 1 on an MLP, in float64, with explicit forward and backward formulas."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lngd import LNGD, PAPER, Factors, LayerwiseRate, Schedule
from reference import batch, mlp, train_step, with_ones

WIDTHS, BATCH, STEPS = (4, 6, 5, 3), 64, 30


@dataclass
class Layer:
    """Averages of one layer."""

    weight: Tensor
    phi: Tensor | float = 0.0
    psi: Tensor | float = 0.0
    updates: int = 0
    momentum: Tensor | float = 0.0
    average: Tensor | float = 0.0
    kappa: float = 0.0
    inverses: tuple[Tensor, Tensor] = field(default_factory=tuple)


@dataclass
class Reference:
    """An MLP with tanh and cross-entropy, trained by Algorithm 1."""

    layers: list[Layer]
    generator: torch.Generator
    paper: bool
    interval: int
    damping: float
    bounds: tuple[float, float]
    mu: float = 1e-8
    step_number: int = 0

    def step(self, x: Tensor, y: Tensor, lr: float, weight_decay: float) -> None:
        inputs, outputs = self.forward(x)
        if self.due():
            self.measure(inputs, outputs)
        upstream = self.backward(inputs, outputs, y)
        for layer, a, g in zip(self.layers, inputs, upstream, strict=True):
            zeta = self.update(layer, a, g, lr)
            layer.weight = (1 - lr * weight_decay) * layer.weight + zeta
        self.step_number += 1

    def due(self) -> bool:
        if self.paper:
            return self.step_number % self.interval == 0
        return self.step_number in (0, 1, 2, 4, 8, 16) or self.step_number % 20 == 0

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        inputs, outputs = [], []
        for layer in self.layers:
            inputs.append(with_ones(x))
            outputs.append(inputs[-1] @ layer.weight.T)
            x = outputs[-1].tanh()
        return inputs, outputs

    def backward(self, inputs: list[Tensor], outputs: list[Tensor], y: Tensor) -> list[Tensor]:
        """Per-sample gradients of the cross-entropy with respect to each pre-activation."""
        g = outputs[-1].softmax(1) - nn.functional.one_hot(y, WIDTHS[-1])
        found = [g]
        for layer, a in zip(self.layers[:0:-1], inputs[:0:-1], strict=True):
            g = (g @ layer.weight[:, :-1]) * (1 - a[:, :-1] ** 2)
            found.insert(0, g)
        return found

    def measure(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for index, (layer, a, s) in enumerate(zip(self.layers, inputs, outputs, strict=True)):
            slope = 1 - s.tanh() ** 2 if index < len(self.layers) - 1 else torch.ones_like(s)
            square = (slope * self.noise(s)) ** 2
            energy = square.sum(1)
            phi = (energy[:, None, None] * a[:, :, None] * a[:, None, :]).mean(0)
            psi = ((a * a).sum(1, keepdim=True) * square).mean(0)
            self.average_factors(layer, phi, psi / psi.sum())
            phi_damping = min(max(self.damping * layer.phi.trace() / len(phi), self.bounds[0]), self.bounds[1])
            psi_damping = min(max(self.damping * layer.psi.mean(), self.bounds[0]), self.bounds[1])
            inverse = torch.linalg.inv(layer.phi + phi_damping * torch.eye(len(phi), dtype=torch.float64))
            layer.inverses = inverse, 1 / (layer.psi + psi_damping)

    def noise(self, s: Tensor) -> Tensor:
        """Drawn in the order of the forward: a layer's when the next one's input arrives, the last layer's at the end."""
        return torch.empty_like(s).normal_(generator=self.generator) if self.paper else torch.ones_like(s)

    def average_factors(self, layer: Layer, phi: Tensor, psi: Tensor, decay: float = 0.95) -> None:
        """Σₖ ϵᵏ Φₖ / Σₖ ϵᵏ, the last measurement first."""
        layer.updates += 1
        total, before = (1 - decay**layer.updates) / (1 - decay), (1 - decay ** (layer.updates - 1)) / (1 - decay)
        layer.phi = (decay * before * layer.phi + phi) / total
        layer.psi = (decay * before * layer.psi + psi) / total

    def update(self, layer: Layer, a: Tensor, g: Tensor, lr: float) -> Tensor:
        gradient = g.T @ a / len(a)
        if not self.paper:
            layer.average = 0.9 * layer.average + 0.1 * gradient
            gradient = layer.average / (1 - 0.9 ** (self.step_number + 1))
        phi_inverse, psi_inverse = layer.inverses
        d = torch.diag(psi_inverse) @ gradient @ phi_inverse
        slope = (d * gradient).sum()
        chosen = slice(None) if self.paper else slice(None, None, 2)
        curvature = ((a @ d.T) * g).sum(1)[chosen].square().mean()
        if self.paper:
            layer.momentum = 0.9 * layer.momentum - lr * slope / (curvature + self.mu) * d
            return layer.momentum
        kappa = (curvature / slope).item()
        layer.kappa = max(kappa, 0.9 * layer.kappa + 0.1 * kappa)
        warmup = min(1.0, (self.step_number + 1) / 10)
        return -lr * warmup / (layer.kappa + self.mu / slope) * d


def reference(model: nn.Sequential, **options) -> Reference:
    linear = [m for m in model if isinstance(m, nn.Linear)]
    layers = [Layer(torch.cat([m.weight, m.bias[:, None]], 1).detach().clone()) for m in linear]
    assert len(layers) == len(list(pairwise(WIDTHS)))
    return Reference(layers, torch.Generator().manual_seed(3), **options)


def assert_same_weights(model: nn.Sequential, expected: Reference, step: int) -> None:
    linear = [m for m in model if isinstance(m, nn.Linear)]
    for index, (module, layer) in enumerate(zip(linear, expected.layers, strict=True)):
        weight = torch.cat([module.weight, module.bias[:, None]], 1).detach()
        torch.testing.assert_close(weight, layer.weight, rtol=1e-9, atol=1e-9, msg=f"layer {index} after step {step}")


@pytest.mark.parametrize("lr", [3e-3, 0.03])
def test_the_papers_recipe_is_algorithm_1(lr):
    model = mlp(*WIDTHS)
    expected = reference(model, paper=True, interval=3, damping=1.0, bounds=(1e-5, 1e-2))
    recipe = {**PAPER, "schedule": replace(PAPER["schedule"], curvature_every=3, inverse_every=3)}
    optimizer = LNGD(model, lr=lr, generator=torch.Generator().manual_seed(3), **recipe)
    for step in range(STEPS):
        x, y = batch(BATCH, 4, seed=step)
        train_step(model, optimizer, x, y)
        expected.step(x, y, lr, 0.004)
        assert_same_weights(model, expected, step)


def test_the_papers_momentum_keeps_each_steps_own_rate():
    model = mlp(*WIDTHS)
    expected = reference(model, paper=True, interval=3, damping=1.0, bounds=(1e-5, 1e-2))
    recipe = {**PAPER, "schedule": replace(PAPER["schedule"], curvature_every=3, inverse_every=3)}
    optimizer = LNGD(model, lr=0.01, generator=torch.Generator().manual_seed(3), **recipe)
    for step, lr in enumerate([0.01, 0.01, 0.002, 0.0, 0.0, 0.005]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        x, y = batch(BATCH, 4, seed=step)
        train_step(model, optimizer, x, y)
        expected.step(x, y, lr, 0.004)
        assert_same_weights(model, expected, step)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_default_recipe_is_its_own_transcription(weight_decay):
    model = mlp(*WIDTHS)
    expected = reference(model, paper=False, interval=20, damping=0.3, bounds=(1e-5, float("inf")))
    factors = Factors(raw_damping=1.0)
    options = {"schedule": Schedule(refresh_over=1), "step_size": LayerwiseRate(samples=32), "factors": factors}
    optimizer = LNGD(model, lr=0.2, damping=0.3, weight_decay=weight_decay, **options)
    for step in range(STEPS):
        x, y = batch(BATCH, 4, seed=step)
        train_step(model, optimizer, x, y)
        expected.step(x, y, 0.2, weight_decay)
        assert_same_weights(model, expected, step)
