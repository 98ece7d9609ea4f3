"""Layers that see the data themselves are damped more: which they are, by how much, and that nothing forgets it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    assert {outcome.layer for outcome in optimizer.summary() if MEETS_TARGETS in outcome.reason} == expected


def test_a_layer_that_the_loss_reads_no_more_is_damped_as_any_other():
    model = mlp(4, 5, 5, 3, dtype=torch.float32)
    optimizer = SpectralLNGD(model, schedule=EVERY_STEP)
    found = []
    for part in (model, model[:3], model):
        optimizer.zero_grad()
        part(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        found.append({outcome.layer for outcome in optimizer.summary() if MEETS_TARGETS in outcome.reason})
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
