"""Weights that are multiplied outside any module: each spelling against nn.Linear and nn.Conv2d, and against autograd."""

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from every import EVERY_STEP, METHODS
from lngd import LNGD, Empirical, LayerwiseRate, SpectralLNGD
from reference import batch

INPUTS, OUTPUTS, TOKENS = 6, 4, 3


class Spelled(nn.Module):
    """A product with a weight of its own, written in some way."""

    def __init__(self, weight: Tensor, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.product = nn.Parameter(weight.clone()), nn.Parameter(torch.zeros(OUTPUTS).double()), product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)


def by_halves(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A weight in two pieces, as attention splits its projections."""
    upper, lower = w.chunk(2)
    return torch.cat([F.linear(x, upper), F.linear(x, lower)], -1) + b


def by_columns(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    left, right = w[:, :2], w[:, 2:]
    return F.linear(x[..., :2], left) + F.linear(x[..., 2:], right) + b


SPELLINGS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "x @ W.T": (lambda x, w, b: x @ w.T + b, lambda w: w),
    "x @ W": (lambda x, w, b: x @ w + b, lambda w: w.T.contiguous()),
    "linear": (F.linear, lambda w: w),
    "linear without the bias": (lambda x, w, b: F.linear(x, w) + b, lambda w: w),
    "linear of a transposed weight": (lambda x, w, b: F.linear(x, w.t(), b), lambda w: w.T.contiguous()),
    "addmm": (lambda x, w, b: torch.addmm(b, x.flatten(0, -2), w).view(*x.shape[:-1], OUTPUTS), lambda w: w.T.contiguous()),
    "einsum": (lambda x, w, b: torch.einsum("nsi,oi->nso", x, w) + b, lambda w: w),
    "einsum with the weight first": (lambda x, w, b: torch.einsum("io, nsi -> nso", w, x) + b, lambda w: w.T.contiguous()),
    "einsum with heads": (
        lambda x, w, b: torch.einsum("nsi,ihk->nshk", x, w).flatten(2) + b,
        lambda w: w.T.reshape(INPUTS, 2, 2).contiguous(),
    ),
    "einsum with heads first": (
        lambda x, w, b: torch.einsum("nsi,hki->nshk", x, w).flatten(2) + b,
        lambda w: w.reshape(2, 2, INPUTS),
    ),
    "W x": (lambda x, w, b: (w @ x.mT).mT + b, lambda w: w),
    "halves": (by_halves, lambda w: w),
    "columns": (by_columns, lambda w: w),
}


PIECES = {"halves", "columns"}


def twins(spelling: str) -> tuple[nn.Module, nn.Module]:
    """The same network with a module, and with a product in its place."""
    torch.manual_seed(1)
    plain = nn.Sequential(
        nn.Linear(5, INPUTS), nn.Tanh(), nn.Linear(INPUTS, OUTPUTS), nn.Tanh(), nn.Flatten(), nn.Linear(TOKENS * OUTPUTS, 3)
    ).double()
    nn.init.zeros_(plain[2].bias)
    product, stored = SPELLINGS[spelling]
    twin = copy.deepcopy(plain)
    twin[2] = Spelled(stored(plain[2].weight.detach()), product)
    return plain, twin


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """The first step, in which uses are seen, moves nothing."""
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]
        x, y = batch(8, TOKENS, 5, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("spelling", sorted(SPELLINGS.keys() - PIECES))
@pytest.mark.parametrize("kind", METHODS)
def test_a_product_trains_as_the_module_does(spelling: str, kind: str) -> None:
    plain, twin = twins(spelling)
    for p in (plain[2].bias, twin[2].bias):
        p.requires_grad_(False)  # where it is added outside the product it is no part of the matrix
    for model in (plain, twin):
        trained(model, METHODS[kind](model, warmup=0, fisher=Empirical(), **EVERY_STEP), 4)
    assert (twin[2].weight - SPELLINGS[spelling][1](plain[2].weight.detach())).abs().max() < 1e-9
    assert (twin[0].weight - plain[0].weight).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["LNGD", "SpectralLNGD", "LNGDLr", "KFAC"])
def test_noise_and_labels_are_drawn_for_a_product_as_for_the_module(kind: str) -> None:
    """Each method with its own way of sampling: the layers come in the same order."""
    plain, twin = twins("linear")
    optimizers = [
        METHODS[kind](model, warmup=0, generator=torch.Generator().manual_seed(3), **EVERY_STEP) for model in (plain, twin)
    ]
    for model, optimizer in zip((plain, twin), optimizers, strict=True):
        trained(model, optimizer, 1)
        optimizer._generator.manual_seed(5)
        trained(model, optimizer, 1)
    one, two = optimizers[0].blocks["2"], optimizers[1].blocks["2.weight"]
    for name in one.statistics:
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spelling", sorted(PIECES))
def test_pieces_of_a_weight_are_independent(spelling: str) -> None:
    """F has no entries between them: Ψ none between halves of the outputs, Φ none between those of the inputs."""
    plain, twin = twins(spelling)
    blocks = []
    for model, name in ((plain, "2"), (twin, "2.weight")):
        optimizer = SpectralLNGD(model, [model[2].weight], **EVERY_STEP)
        trained(model, optimizer, 2)
        blocks.append(optimizer.blocks[name])
    phi, psi = torch.ones(INPUTS, INPUTS), torch.ones(OUTPUTS, OUTPUTS)
    if spelling == "halves":
        psi[:2, 2:] = psi[2:, :2] = 0
    else:
        phi[:2, 2:] = phi[2:, :2] = 0
    torch.testing.assert_close(blocks[1].phi, blocks[0].phi * phi)
    torch.testing.assert_close(blocks[1].psi, blocks[0].psi * psi)


class SamePadding(nn.Conv2d):
    """As timm's Conv2dSame: pads its input, then convolves without padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 1, 2)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize("kind", METHODS)
def test_a_convolution_with_a_forward_of_its_own_trains_as_one_without(kind: str) -> None:
    def network(own: bool) -> nn.Sequential:
        torch.manual_seed(2)
        padded = nn.Sequential(nn.ZeroPad2d((0, 1, 1, 2)), nn.Conv2d(2, 4, 3, 2, groups=2))
        first = SamePadding(2, 4, 3, stride=2, groups=2)
        first.load_state_dict(padded[1].state_dict())
        return nn.Sequential(first if own else padded, nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).double()

    models = network(own=False), network(own=True)
    for model in models:
        optimizer = METHODS[kind](model, warmup=0, fisher=Empirical(), **EVERY_STEP)
        for step in range(4):
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]
            x, y = batch(8, 2, 6, 6, seed=step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert "0.weight" in optimizer.blocks
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


COUNT, ROWS = 3, 12
TO = torch.tensor([0, 2, 2, 0, 2, 0, 2, 2, 0, 2, 2, 0])
"""Of each row its expert; nobody goes to expert 1."""


def one_by_one(x: Tensor, w: Tensor) -> Tensor:
    """`w` `[COUNT, o, i]`."""
    y = x.new_zeros(len(x), w.shape[1])
    for e in TO.unique():
        y = y.index_add(0, (e == TO).nonzero()[:, 0], F.linear(x[e == TO], w[e]))
    return y


def batched(x: Tensor, w: Tensor) -> Tensor:
    """`w` `[COUNT, i, o]`; rows padded with zeros to as many for each."""
    place = torch.stack([(TO[:k] == TO[k]).sum() for k in range(len(TO))])
    rows = x.new_zeros(COUNT, len(TO), x.shape[1]).index_put((TO, place), x)
    return torch.bmm(rows, w)[TO, place]


def gathered(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x.unsqueeze(1), w[TO].mT).squeeze(1)


def sorted_by_expert(x: Tensor, w: Tensor) -> Tensor:
    order = TO.argsort(stable=True)
    y = F.grouped_mm(x[order], w.mT, offs=torch.bincount(TO, minlength=COUNT).cumsum(0).int())
    return y[order.argsort()]


def by_letters(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("eni,eoi->eno", F.one_hot(TO, COUNT).to(x.dtype).T.unsqueeze(-1) * x, w).sum(0)


EXPERTS = {"one by one": one_by_one, "bmm": batched, "picked": gathered, "grouped": sorted_by_expert, "einsum": by_letters}


class Mixture(nn.Module):
    def __init__(self, weight: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.weight, self.head, self.product = (
            nn.Linear(5, INPUTS),
            nn.Parameter(weight.clone()),
            nn.Linear(OUTPUTS, 3),
            product,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.product(self.first(x).tanh(), self.weight).tanh())


def mixture(spelling: str) -> tuple[Mixture, torch.dtype]:
    """torch's grouped product takes float32 and rows of 16 bytes."""
    torch.manual_seed(4)
    if spelling == "grouped":
        model = Mixture(torch.randn(COUNT, 8, 8), EXPERTS[spelling])
        model.first, model.head = nn.Linear(5, 8), nn.Linear(8, 3)
        return model, torch.float32
    sides = (INPUTS, OUTPUTS) if spelling == "bmm" else (OUTPUTS, INPUTS)
    return Mixture(torch.randn(COUNT, *sides), EXPERTS[spelling]).double(), torch.float64


@pytest.mark.parametrize("spelling", EXPERTS)
@pytest.mark.parametrize("kind", METHODS)
def test_experts_in_one_parameter_have_the_factors_of_each(spelling: str, kind: str) -> None:
    """Against the blocks of the same rows alone: up to its scale, what a layer of that expert alone would have."""
    model, dtype = mixture(spelling)
    optimizer = METHODS[kind](model, lr=0.0, fisher=Empirical(), **EVERY_STEP)
    x, y = batch(ROWS, 5, dtype=dtype)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    a = model.first(x).tanh().detach()
    put_out = EXPERTS[spelling](a, model.weight.detach()).requires_grad_()
    F.cross_entropy(model.head(put_out.tanh()), y).backward()
    block = optimizer.blocks["weight"]
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    for expert in (0, 2):
        alone, own = type(block)(block.max_dim), expert == TO
        alone.update(alone.measure(a[own].unsqueeze(1), put_out.grad[own].unsqueeze(1)), 0.0)
        for name in block.statistics:
            found, wanted = getattr(block, name)[expert], getattr(alone, name)
            close(found / found.norm(), wanted / wanted.norm())
    assert block.ready


@pytest.mark.parametrize("spelling", EXPERTS)
def test_rows_of_experts_make_the_gradient(spelling: str) -> None:
    """Σ g aᵀ over what the rate saw is autograd's gradient."""
    model, dtype = mixture(spelling)
    optimizer = LNGD(model, step_size=LayerwiseRate(samples=None))
    x, y = batch(ROWS, 5, dtype=dtype)
    for step in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if step == 0:
            optimizer.step()
    layer = optimizer._layers["weight"].layer
    (sample,) = optimizer._capture.gather()["weight"]
    a, g, experts, _ = layer.by_expert(sample.x, sample.g)
    found = layer.placed(torch.einsum("knso,knsi->koi", g, a), experts, 1.0)
    torch.testing.assert_close(layer.matrix_as_weight(found), model.weight.grad)
    torch.testing.assert_close(
        layer.output(sample.x, layer.matrix([model.weight.detach()])),
        torch.stack([row[:-1] @ layer.matrix([model.weight.detach()])[int(row[-1])].mT for row in sample.x]),
    )


@pytest.mark.parametrize("kind", METHODS)
def test_a_checkpoint_knows_what_was_found(kind: str) -> None:
    """Loaded before the first forward, a run goes on bit-equal; so does a copy."""
    _, model = twins("x @ W")
    optimizer = METHODS[kind](model)
    trained(model, optimizer, 3)
    twin = copy.deepcopy(model)
    resumed = METHODS[kind](twin)
    resumed.load_state_dict(optimizer.state_dict())
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    runs = (model, optimizer), (twin, resumed), (copied, copied_optimizer)
    for each, own in runs:
        assert "2.weight" in own.blocks
        trained(each, own, 4)
    for one, two, three in zip(*(each.parameters() for each, _ in runs), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_checkpoint_from_before_the_first_forward_takes_the_layer_back() -> None:
    _, model = twins("linear")
    optimizer = LNGD(model)
    early = copy.deepcopy(optimizer.state_dict())
    trained(model, optimizer, 2)
    optimizer.load_state_dict(early)
    assert "2.weight" not in optimizer.blocks
    trained(model, optimizer, 2)
    assert "2.weight" in optimizer.blocks


def test_the_summary_names_a_weight_that_was_found() -> None:
    _, model = twins("linear")
    optimizer = LNGD(model)
    outcomes = {row.name: row for row in optimizer.summary()}
    assert outcomes["2.weight"].reason == "the first forward shows how it is used"
    trained(model, optimizer, 2)
    outcomes = {row.name: row for row in optimizer.summary()}
    assert (outcomes["2.weight"].kind, outcomes["2.bias"].kind) == ("curvature", "curvature")


def test_a_weight_that_is_used_in_no_known_product_is_named_once() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(30, 5))

        def forward(self, x: Tensor) -> Tensor:
            return (x.unsqueeze(1) * self.weight).sum(2)

    model = nn.Sequential(Scaled(), nn.Linear(30, 2))
    optimizer, x = LNGD(model), torch.randn(8, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert ["no curvature for Scaled" in str(warning.message) for warning in caught] == [True]


def test_a_module_that_is_called_is_not_found_by_what_another_does_with_its_weight() -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + (F.linear(torch.eye(5), self.inner.weight) ** 2).mean()

    model = Penalised()
    optimizer = LNGD(model)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(8, 5, seed=step, dtype=torch.float32)[0]).square().mean().backward()
        optimizer.step()
    assert list(optimizer.blocks) == ["inner"]


def test_functions_are_seen_no_longer_than_the_forward() -> None:
    _, model = twins("linear")
    optimizer = LNGD(model)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = model[3].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        model(batch(8, TOKENS, 5)[0])
    assert torch.overrides._get_current_function_mode() is None
    handle.remove()
    trained(model, optimizer, 2)
    assert torch.overrides._get_current_function_mode() is None
    assert "2.weight" in optimizer.blocks


class Flattened(nn.Module):
    """A layer on tokens, or on tokens of all samples in one dimension, behind one that has the samples in front."""

    def __init__(self, *, flat: bool, called: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.inner, self.head = nn.Linear(5, INPUTS), nn.Linear(INPUTS, OUTPUTS, bias=False), nn.Linear(OUTPUTS, 3)
        self.flat, self.called = flat, called
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).tanh()
        y = y.flatten(0, 1) if self.flat else y
        y = self.inner(y) if self.called else F.linear(y, self.inner.weight)
        return self.head(y.tanh().view(len(x), TOKENS, OUTPUTS).mean(1))


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("kind", METHODS)
def test_rows_that_are_a_multiple_of_the_batch_are_positions(kind: str, called: bool) -> None:
    """Windows, or tokens in one dimension: the run is the same as with the batch in front."""
    models = Flattened(flat=False, called=called), Flattened(flat=True, called=called)
    for model in models:
        trained(model, METHODS[kind](model, **EVERY_STEP), 4)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_an_embedding_with_a_forward_of_its_own_is_an_embedding() -> None:
    class Scaled(nn.Embedding):
        def forward(self, tokens: Tensor) -> Tensor:
            return 4 * super().forward(tokens)

    optimizer = LNGD(nn.Sequential(Scaled(9, 4), nn.Linear(4, 3)))
    (outcome,) = (row for row in optimizer.summary() if row.name == "0.weight")
    assert outcome.kind == "fallback"
    assert outcome.reason.startswith("AdamW trains embeddings better")


def test_a_convolution_with_a_view_of_its_weight_is_found() -> None:
    """As causal convolutions keep theirs: without the dimension of one channel, which comes back for the product."""

    class Causal(nn.Conv1d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv1d(F.pad(x, (2, 0)), self.weight.squeeze(1).unsqueeze(1), groups=4)

    model = nn.Sequential(Causal(4, 4, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(20, 3)).double()
    optimizer = LNGD(model)
    for step in range(2):
        x, y = batch(8, 4, 5, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert optimizer.blocks["0.weight"].ready


class Blocks(nn.Module):
    """Two products without their modules, in a block that may be checkpointed."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up, self.down = nn.Linear(5, INPUTS), nn.Linear(INPUTS, 5)
        self.head, self.checkpointed = nn.Linear(5, 3), checkpointed

    def block(self, x: Tensor) -> Tensor:
        return x + F.linear(F.linear(x, self.up.weight, self.up.bias).tanh(), self.down.weight, self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x))


def runs(model: nn.Module, optimizer: torch.optim.Optimizer, **autocast: Any) -> list[Tensor]:
    for step in range(5):
        x, y = batch(8, 5, seed=step, dtype=next(model.parameters()).dtype)
        optimizer.zero_grad()
        with torch.autocast("cpu", **autocast) if autocast else nullcontext():
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["LNGD", "SpectralLNGD", "KFAC"])
def test_inside_a_checkpoint_uses_count_as_outside(kind: str) -> None:
    found = []
    for checkpointed in (False, True):
        model = Blocks(checkpointed=checkpointed).double()
        optimizer = METHODS[kind](model, generator=torch.Generator().manual_seed(0), **EVERY_STEP)
        found.append(runs(model, optimizer))
        assert {"up.weight", "down.weight"} <= set(optimizer.blocks)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["LNGD", "SpectralLNGD", "KFAC"])
def test_under_autocast_uses_have_curvature(kind: str) -> None:
    model = Blocks()
    optimizer = METHODS[kind](model)
    runs(model, optimizer, dtype=torch.bfloat16)
    assert all(optimizer.blocks[name].ready for name in ("up.weight", "down.weight", "head"))


def test_a_model_whose_layers_are_all_called_is_not_watched_for_long() -> None:
    """After the first step no function mode is entered in any forward."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    optimizer, modes = LNGD(model, schedule=1), []
    model[1].register_forward_hook(lambda *_: modes.append(torch.overrides._get_current_function_mode()))
    runs(model, optimizer)
    assert [mode is not None for mode in modes] == [True, False, False, False, False]


def test_a_weight_that_was_found_follows_its_group_and_can_be_frozen() -> None:
    _, model = twins("linear")
    rest = [p for p in model.parameters() if p is not model[2].weight]
    optimizer = LNGD(model, [{"params": [model[2].weight]}, {"params": rest}])
    trained(model, optimizer, 2)
    assert "2.weight" in optimizer.blocks
    optimizer.param_groups[0]["curvature"] = False
    trained(model, optimizer, 2)
    assert "2.weight" not in optimizer.blocks
    optimizer.param_groups[0]["curvature"] = None
    trained(model, optimizer, 2)
    assert "2.weight" in optimizer.blocks
    model[2].weight.requires_grad_(False)
    model[2].weight.grad = None
    before = model[2].weight.detach().clone()
    trained(model, optimizer, 2)
    assert "2.weight" not in optimizer.blocks
    assert torch.equal(model[2].weight, before)


def test_a_weight_that_was_found_may_be_replaced() -> None:
    _, model = twins("linear")
    optimizer = LNGD(model)
    trained(model, optimizer, 2)
    model[2].weight = nn.Parameter(torch.randn(OUTPUTS, INPUTS).double())
    trained(model, optimizer, 3)
    assert optimizer.blocks["2.weight"].ready


NAMED: dict[str, Callable[[Tensor, nn.Parameter, Tensor], Tensor]] = {
    "linear": lambda x, w, b: F.linear(input=x, weight=w, bias=b),
    "linear, a name": lambda x, w, _b: F.linear(x, weight=w),
    "matmul": lambda x, w, _b: torch.matmul(input=x, other=w.T),
    "mm": lambda x, w, _b: torch.mm(x, mat2=w.T),
    "mm of a tensor": lambda x, w, _b: x.mm(mat2=w.T),
    "addmm": lambda x, w, b: torch.addmm(input=b, mat1=x, mat2=w.T),
    "addmm of a tensor": lambda x, w, b: b.addmm(mat1=x, mat2=w.T, beta=1.0),
    "bmm": lambda x, w, _b: torch.bmm(x.unsqueeze(0), mat2=w.T.unsqueeze(0))[0],
    "baddbmm": lambda x, w, b: b.expand(1, len(x), -1).baddbmm(batch1=x.unsqueeze(0), batch2=w.T.unsqueeze(0), alpha=1.0)[0],
    "conv": lambda x, w, _b: F.conv1d(input=x.unsqueeze(2), weight=w.unsqueeze(2), stride=1)[..., 0],
}


SEEN = [name for name in NAMED if "bmm" not in name and name != "conv"]
"""Not a matrix as one of a batch, nor as a kernel."""


@pytest.mark.parametrize("name", NAMED)
def test_operands_may_be_named(name: str) -> None:
    """As in Bloom's attention, `alibi.baddbmm(batch1=…, batch2=…)`: the call goes through, and the weight's use is seen."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.weight, self.bias = nn.Linear(4, 5), nn.Parameter(torch.randn(3, 5)), torch.randn(3)

        def forward(self, x: Tensor) -> Tensor:
            return NAMED[name](torch.tanh(self.first(x)), self.weight, self.bias)

    model = Model()
    optimizer = LNGD(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    assert {o.kind for o in optimizer.summary() if o.name == "weight"} == {"curvature" if name in SEEN else "fallback"}


class Placed(nn.Module):
    """Rows of a batch with places added to them, of a parameter or of an embedding."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        table = nn.Embedding(7, 6)
        self.places = nn.Parameter(table.weight.detach().clone().unsqueeze(0)) if bare else table
        self.bare = bare
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        places = self.places[:, : x.shape[1]] if self.bare else self.places.weight[: x.shape[1]]
        return self.head((self.first(x) + places).tanh())


@pytest.mark.parametrize("kind", [LNGD, SpectralLNGD])
def test_a_parameter_that_is_added_to_activations_trains_as_the_weight_of_an_embedding(kind: type) -> None:
    found = []
    for bare in (True, False):
        model, x = Placed(bare=bare), torch.randn(4, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        optimizer = kind(model, schedule=2, generator=torch.Generator().manual_seed(0))
        for step in range(4):
            optimizer.zero_grad()
            model(x * (1 + step)).square().mean().backward()
            optimizer.step()
        found.append([p.detach().reshape(-1) for p in sorted(model.parameters(), key=torch.Tensor.numel)])
        reason = {o.name: o.reason for o in optimizer.summary()}["places" if bare else "places.weight"]
        assert ("added to activations" in reason) is bare
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_checkpoint_knows_a_table() -> None:
    model, x = Placed(bare=True), torch.randn(4, 7, 5, dtype=torch.float64)
    optimizer = SpectralLNGD(model)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    train(model, optimizer)
    other = Placed(bare=True)
    other.load_state_dict(model.state_dict())
    resumed = SpectralLNGD(other)
    resumed.load_state_dict(optimizer.state_dict())
    train(model, optimizer)
    train(other, resumed)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_a_weight_to_which_a_change_is_added_is_no_table() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.down, self.up = (nn.Parameter(torch.randn(shape)) for shape in ((4, 5), (2, 5), (4, 2)))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight + self.up @ self.down)

    model = Merged()
    optimizer = SpectralLNGD(model)
    model(torch.randn(8, 5)).square().mean().backward()
    with pytest.warns(UserWarning, match="no curvature for Merged"):
        optimizer.step()
    assert not any("added to activations" in o.reason for o in optimizer.summary())
