"""Layers that see the data themselves are damped more: which they are, by how much, and that nothing forgets it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lngd import KFAC, LNGD, PAPER, Factors, Schedule, SpectralLNGD
from lngd.linalg import Damping
from lngd.optimizer.curved_layer import MEETS_TARGETS, SEES_DATA
from reference import batch, differences, mlp, snapshot, through_a_file, train_step

EVERY_STEP = Schedule(curvature_every=1, inverse_every=1, refresh_over=1, samples=None)


def seen(model: nn.Module, x: Tensor) -> set[str]:
    """The layers that `summary` says see data, after a step."""
    optimizer = LNGD(model)
    z = model(x)
    F.cross_entropy(z.flatten(1) if z.dim() == 2 else z.mean(1), torch.zeros(len(x), dtype=torch.long)).backward()
    optimizer.step()
    return {outcome.layer for outcome in optimizer.summary() if outcome.reason == SEES_DATA}


class Two(nn.Module):
    """Two layers on data, one of them through a function without weights, and one on what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(x) + self.other(x.square())))


Case = tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]
CASES: dict[str, Case] = {
    "rows": (lambda: mlp(4, 5, 3, dtype=torch.float32), (16, 4), {"0"}),
    "two layers": (Two, (16, 4), {"one", "other"}),
    "pictures": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(18, 3)), (16, 1, 4, 4), set()),
    "flat pictures": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)), (16, 1, 4, 4), {"1"}),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (16, 6, 4), set()),
    "behind trained scales": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), (16, 4), set()),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_that_nothing_trained_has_made_are_data(case):
    make, shape, expected = CASES[case]
    torch.manual_seed(0)
    assert seen(make(), torch.randn(shape)) == expected


def test_inputs_that_a_gradient_is_asked_for_are_data_all_the_same():
    """As of a physics-informed network, or an attack."""
    assert seen(mlp(4, 5, 3, dtype=torch.float32), torch.randn(16, 4, requires_grad=True)) == {"0"}


@pytest.mark.parametrize("factor", [None, 1.0, 7.0])
@pytest.mark.parametrize("kind", [LNGD, SpectralLNGD, KFAC])
def test_their_damping_is_multiplied(kind, factor):
    model = mlp(4, 6, 3)
    optimizer = kind(model, damping=0.2, factors=Factors(8192, raw_damping=factor), schedule=EVERY_STEP)
    train_step(model, optimizer, *batch(16, 4))
    own = factor or (1.0 if kind is KFAC else 100.0)
    of_outputs = own if kind is SpectralLNGD else 1.0
    for name, damping in (("0", Damping(0.2 * own)), ("2", Damping(0.2, outputs=of_outputs))):
        block, module = optimizer.blocks[name], model.get_submodule(name)
        gradient = torch.randn(module.out_features, module.in_features + 1, dtype=torch.float64)
        solved = torch.linalg.solve(block.dense(damping), gradient.flatten())
        torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


class TwoHeads(nn.Module):
    """The last one that is called is the one to which the backward pass comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.trunk(x))
        return torch.cat([self.policy(h), self.value(h)], 1)


ENDS: dict[str, Case] = {
    "rows": (lambda: mlp(4, 5, 3, dtype=torch.float32), (16, 4), {"2"}),
    "behind an activation": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()), (16, 4), {"2"}),
    "one layer": (lambda: nn.Linear(4, 3), (16, 4), {""}),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (16, 6, 4), set()),
    "pictures": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 2)), (16, 1, 4, 4), set()),
    "two heads": (TwoHeads, (16, 4), {"value"}),
}


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("case", ENDS)
def test_rows_of_outputs_that_the_loss_reads_meet_the_targets(case, accumulated):
    make, shape, expected = ENDS[case]
    torch.manual_seed(0)
    model = make()
    optimizer = SpectralLNGD(model)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(accumulated):
            model(torch.randn(shape)).square().mean().backward()
        optimizer.step()
    assert of_targets(optimizer) == expected


class Behind(nn.Module):
    """A layer on rows with something behind it that has no curvature."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.hidden = kind, nn.Linear(4, 5)
        self.head = nn.Bilinear(5, 5, 3) if kind == "bilinear" else nn.Linear(5, 3)
        self.matrix = nn.Parameter(torch.randn(3, 5)) if kind == "parameter" else None
        if kind == "frozen":
            self.head.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.hidden(x))
        if self.matrix is not None:
            return F.linear(h, self.matrix)
        return self.head(h, h) if self.kind == "bilinear" else self.head(h)


def of_targets(optimizer: SpectralLNGD) -> set[str]:
    """The layers whose outputs meet the targets."""
    return {outcome.layer for outcome in optimizer.summary() if MEETS_TARGETS in outcome.reason}


@pytest.mark.filterwarnings("ignore:only")
@pytest.mark.parametrize("kind", ["bilinear", "parameter", "frozen", "by AdamW"])
def test_what_stands_behind_a_layer_without_curvature_is_no_target(kind):
    torch.manual_seed(0)
    model = Behind(kind)
    head = [p for p in model.head.parameters() if kind == "by AdamW"]
    rest = [p for p in model.parameters() if all(p is not q for q in head)]
    optimizer = SpectralLNGD(model, [{"params": rest}, {"params": head, "curvature": False}] if head else None)
    model(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    assert of_targets(optimizer) == set()


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_on_positions_meets_no_targets(batch_first):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    optimizer = SpectralLNGD(model)
    x = torch.randn(6, 5, 4)
    model(x, x, x)[0].square().mean().backward()
    optimizer.step()
    assert of_targets(optimizer) == set()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_look_at_a_hidden_layers_gradient_does_not_make_it_the_last_one(create_graph):
    torch.manual_seed(0)
    model = mlp(4, 5, 5, 3, dtype=torch.float32)
    optimizer = SpectralLNGD(model)
    x = torch.randn(16, 4, requires_grad=True)
    hidden = model[:3](x)
    torch.autograd.grad(hidden.sum(), x, retain_graph=True, create_graph=create_graph)
    model[3:](hidden).square().mean().backward()
    optimizer.step()
    assert of_targets(optimizer) == {"4"}


def test_a_pass_to_a_hidden_layer_that_was_dropped_does_not_make_it_the_last_one():
    torch.manual_seed(0)
    model = mlp(4, 5, 5, 3, dtype=torch.float32)
    optimizer = SpectralLNGD(model)
    hidden = model[:3](torch.randn(16, 4))
    hidden.square().mean().backward(retain_graph=True)
    optimizer.zero_grad()
    model[3:](hidden).square().mean().backward()
    optimizer.step()
    assert of_targets(optimizer) == {"4"}


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_parts_don_t_change_which_layer_is_the_last_one(reentrant, parts):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)), nn.Linear(4, 3))
    optimizer = SpectralLNGD(model)
    for _ in range(2):
        h = torch.randn(16, 4, requires_grad=True)
        for place, part in enumerate(model):
            h = checkpoint(part, h, use_reentrant=reentrant) if place in parts else part(h)
        optimizer.zero_grad()
        h.square().mean().backward()
        optimizer.step()
        assert of_targets(optimizer) == {"2"}


def test_a_layer_at_both_ends_is_damped_once():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    optimizer = SpectralLNGD(model, damping=0.01, schedule=EVERY_STEP)
    train_step(model, optimizer, *batch(16, 4))
    block, gradient = optimizer.blocks[""], torch.randn(3, 5, dtype=torch.float64)
    solved = torch.linalg.solve(block.dense(Damping(1.0)), gradient.flatten())
    torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


def test_a_layer_that_the_loss_reads_no_more_is_damped_as_any_other():
    model = mlp(4, 5, 5, 3, dtype=torch.float32)
    optimizer = SpectralLNGD(model, schedule=EVERY_STEP)
    found = []
    for part in (model, model[:3], model):
        optimizer.zero_grad()
        part(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        found.append(of_targets(optimizer))
    assert found == [{"4"}, {"2", "4"}, {"4"}]  # what is not measured keeps what it was


def test_only_the_spectral_step_asks_who_meets_the_targets():
    model = mlp(4, 5, 3, dtype=torch.float32)
    optimizer = LNGD(model)
    train_step(model, optimizer, *batch(16, 4, dtype=torch.float32))
    assert not any(MEETS_TARGETS in outcome.reason for outcome in optimizer.summary())


def test_the_paper_has_no_such_rule():
    assert PAPER["factors"].raw_damping == 1


@pytest.mark.parametrize("after", range(1, 8))
def test_a_resumed_run_knows_them_before_it_measures(after):
    """In the middle of a refresh that is spread over steps, too."""

    def made() -> tuple[nn.Module, LNGD]:
        model = mlp(4, 6, 5, 3)
        return model, LNGD(model, generator=torch.Generator().manual_seed(5), schedule=Schedule(4, 4, refresh_over=4))

    def train(model: nn.Module, optimizer: LNGD, steps: range) -> None:
        for step in steps:
            train_step(model, optimizer, *batch(16, 4, seed=step))

    whole, expected = made()
    train(whole, expected, range(after))
    resumed, optimizer = made()
    resumed.load_state_dict(whole.state_dict())
    optimizer.load_state_dict(through_a_file(expected.state_dict()))
    train(whole, expected, range(after, 9))
    train(resumed, optimizer, range(after, 9))
    assert differences(snapshot(whole, expected), snapshot(resumed, optimizer)) == []
