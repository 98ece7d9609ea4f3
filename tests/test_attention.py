"""nn.MultiheadAttention's projections against an attention written by hand from four nn.Linear, in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, Factors, FisherType, Layerwise, LayerwiseRate, LNGDLr, Schedule
from lngd.layers import AttentionInput, in_groups
from lngd.optimizer import NaturalGradient
from reference import batch, sample_gradients, statistics, with_ones

WIDTH, HEADS, TOKENS = 4, 2, 3
STILL = {"lr": 0.0, "step_size": "constant", "schedule": Schedule(curvature_every=1)}
METHODS = {"LNGD": LNGD, "KFAC": KFAC}
every_method = pytest.mark.parametrize("kind", METHODS)

MASK = torch.tensor([[False, False, True, True], [True, False, False, False], [False, True, False, True]])
"""Where a query may not look; its first columns serve shorter memories."""
SOURCES = {"self": 1, "memory": 2, "three": 3}


class Attending(nn.Module):
    """Tokens `[n, s, e]` attend to themselves, to one memory as keys and values, or to one of each."""

    def __init__(self, source: str, *, bias: bool = True, batch_first: bool = True, masked: bool = False, weights: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first)
        for name, p in self.attention.named_parameters():
            if "bias" in name:  # torch starts them at zero
                nn.init.normal_(p)
        self.source, self.batch_first, self.masked, self.weights = source, batch_first, masked, weights
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        inputs = sources(self.source, x)
        mask = mask_for(inputs[1]) if self.masked else None
        if not self.batch_first:
            swapped = {id(t): t.transpose(0, 1) for t in inputs}  # one tensor stays one
            inputs = tuple(swapped[id(t)] for t in inputs)
        found, _ = self.attention(*inputs, attn_mask=mask, need_weights=self.weights)
        return found if self.batch_first else found.transpose(0, 1)


def sources(source: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if source == "self":
        return x, x, x
    memory = torch.cat([x.flip(1), x[:, :1].square()], 1)  # a token longer
    return (x, memory, memory) if source == "memory" else (x, memory, memory.sin())


def mask_for(keys: Tensor) -> Tensor:
    return MASK[:, : keys.shape[1]]


class ByHand:
    """The same attention from four layers. Keeps the input and the output of each."""

    def __init__(self, model: Attending, x: Tensor) -> None:
        own = model.attention
        rows = dict(zip("qkv", own.in_proj_weight.detach().chunk(3), strict=True))
        shifts = [None] * 3 if own.in_proj_bias is None else own.in_proj_bias.detach().chunk(3)
        self.parameters = {name: (rows[name], shift) for name, shift in zip("qkv", shifts, strict=True)}
        self.parameters["out"] = own.out_proj.weight.detach(), None if own.out_proj.bias is None else own.out_proj.bias.detach()
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        inputs = dict(zip("qkv", sources(model.source, x), strict=True))
        q, k, v = (self.layer(name, inputs[name]).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in "qkv")
        scores = q @ k.mT * (WIDTH / HEADS) ** -0.5
        if model.masked:
            scores = scores.masked_fill(mask_for(inputs["k"]), -torch.inf)
        self.mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        self.output = self.layer("out", self.mixed)

    def layer(self, name: str, x: Tensor) -> Tensor:
        output = F.linear(x, *self.parameters[name]).requires_grad_()
        self.seen[name] = x.detach(), output
        return output

    def samples(self, name: str, target: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """`a` and `g` of a layer, g = Jᵀ · upstream from `target`."""
        x, output = self.seen[name]
        (g,) = torch.autograd.grad(target, output, upstream, retain_graph=True)
        return x if self.parameters[name][1] is None else with_ones(x), g


def padded(rows: Tensor, positions: int) -> Tensor:
    """Zero rows for the positions at which another of the three layers has its own."""
    return F.pad(rows, (0, 0, 0, positions - rows.shape[1]))


def joint_positions(source: str, hand: ByHand) -> int:
    """Positions of all products with the in-projection together."""
    return sum(hand.seen[name][0].shape[1] for name in "qkv"[: SOURCES[source]])


def assert_block(
    kind: str, optimizer: NaturalGradient, hand: ByHand, samples: dict[str, tuple[Tensor, Tensor]], source: str
) -> None:
    positions = joint_positions(source, hand)
    for k, name in enumerate("qkv"):
        a, g = (padded(t, positions) for t in samples[name])
        for statistic, expected in statistics(kind, a, g).items():
            found = getattr(optimizer.blocks["attention"], statistic)[k]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=f"{statistic} of {name}")
    for statistic, expected in statistics(kind, *samples["out"]).items():
        found = getattr(optimizer.blocks["attention.out_proj"], statistic)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=f"{statistic} of out")


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.mean(1)[:, :3], y)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


FORMS = [
    {"bias": bias, "batch_first": first, "masked": masked, "weights": weights}
    for bias, first, masked, weights in itertools.product((True, False), repeat=4)
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(k for k, v in form.items() if v) or "none")
every_source = pytest.mark.parametrize("source", SOURCES)


def by_labels(hand: ByHand, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """`a` and `g` of each sample's own loss."""
    (upstream,) = torch.autograd.grad(len(y) * loss_of(hand.output, y), hand.output, retain_graph=True)
    return {name: hand.samples(name, hand.output, upstream) for name in hand.seen}


@every_form
@every_source
@every_method
def test_statistics_are_those_of_four_layers(kind, source, form):
    model, (x, y) = Attending(source, **form), batch(5, TOKENS, WIDTH)
    optimizer = METHODS[kind](model, fisher=FisherType.EMPIRICAL, **STILL)
    hand = ByHand(model, x)
    torch.testing.assert_close(model.eval()(x), hand.output)
    samples = by_labels(hand, y)
    step(model.train(), optimizer, x, y)
    assert_block(kind, optimizer, hand, samples, source)


@every_form
@every_source
@every_method
def test_layerwise_noise_is_pulled_back_from_the_out_projections_input(kind, source, form):
    model, (x, y) = Attending(source, **form), batch(5, TOKENS, WIDTH)
    optimizer = METHODS[kind](model, fisher=Layerwise("gaussian"), generator=torch.Generator().manual_seed(5), **STILL)
    twin, hand = torch.Generator().manual_seed(5), ByHand(model, x)
    noise = [torch.empty(TOKENS, 5, WIDTH, dtype=torch.float64).normal_(generator=twin).transpose(0, 1) for _ in range(2)]
    samples = {name: hand.samples(name, hand.mixed, noise[0]) for name in "qkv"}
    step(model, optimizer, x, y)
    assert_block(kind, optimizer, hand, samples | {"out": hand.samples("out", hand.output, noise[1])}, source)


@pytest.mark.parametrize("rate_samples", [None, 4])
@pytest.mark.parametrize("method", [LNGD, LNGDLr, KFAC])
@every_source
def test_the_rate_is_that_of_the_three_layers_together(source, method, rate_samples):
    model, (x, y) = Attending(source), batch(12, TOKENS, WIDTH)
    step_size, factors = LayerwiseRate(mu=1e-3, smoothing=0.0, samples=rate_samples), Factors(damping_bounds=(0.0, torch.inf))
    optimizer = method(model, momentum=0.0, warmup=0, damping=0.3, step_size=step_size, factors=factors)
    own = {name: torch.stack(sample_gradients(a, g)).flatten(1) for name, (a, g) in by_labels(ByHand(model, x), y).items()}
    step(model, optimizer, x, y)
    dense = optimizer.blocks["attention"].dense(0.3)
    chosen = slice(None) if rate_samples is None else slice(None, None, 3)
    assert_rate(optimizer.rates["attention"], [*dense], [own[name] for name in "qkv"], chosen)
    assert_rate(optimizer.rates["attention.out_proj"], [optimizer.blocks["attention.out_proj"].dense(0.3)], [own["out"]], chosen)


def assert_rate(found: Tensor, dense: list[Tensor], rows: list[Tensor], chosen: slice) -> None:
    """⟨d,∇⟩ / (mean ⟨d,∇⁽ⁿ⟩² + µ), d by a dense solve in each group."""
    d = torch.cat([torch.linalg.solve(F_k, each.mean(0)) for F_k, each in zip(dense, rows, strict=True)])
    every = torch.cat(rows, 1)
    expected = d.dot(every.mean(0)) / ((every[chosen] @ d).square().mean() + 1e-3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [slice(0, 3), slice(0, 1), slice(1, 2), slice(1, 3)])
def test_outer_products_sum_to_the_gradient_of_autograd(groups, bias):
    module = nn.MultiheadAttention(WIDTH, HEADS, bias=bias).double()
    layer, x = AttentionInput(module, with_bias=bias), torch.randn(5, TOKENS, WIDTH, dtype=torch.float64)
    rows = slice(groups.start * WIDTH, groups.stop * WIDTH)
    output = F.linear(x, module.in_proj_weight[rows], module.in_proj_bias[rows] if bias else None)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    a = layer.activations(layer.inputs_of(x, groups))
    g = layer.gradients(in_groups(upstream.unflatten(-1, (-1, WIDTH)).transpose(1, 2), groups))
    total = torch.einsum("knso,knsi->koi", g, a)
    assert total.shape == (layer.groups, layer.outputs, layer.inputs)
    torch.testing.assert_close(layer.gradient(), total)
    for p, expected in zip(layer.parameters, layer.split(total), strict=True):
        torch.testing.assert_close(expected, p.grad)
