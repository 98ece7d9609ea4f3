"""Rows: weights that are shared, rewritten, frozen, swapped or born late."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from compatibility.exact import assert_exact
from compatibility.runs import (
    OFTEN,
    Run,
    assert_resumes,
    assert_same,
    assert_trains,
    batches,
    inputs,
    learnable,
    plain,
    start,
)
from compatibility.table import group
from lngd.methods import Method

weights = group("Weights")

TRAINS = "every parameter moves, the loss falls"
UNCURVED = "AdamW trains it, a warning says so; " + TRAINS


class Tied(nn.Module):
    """A language model whose head's weight is its embedding's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.body, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)).tanh())


@weights("Tied embedding and head", TRAINS + "; the two are one parameter still, trained once")
def tied_embedding(method: type[Method]) -> None:
    model, tokens = Tied(), torch.arange(6).repeat(4)
    run = assert_trains(method, model, tokens, (tokens + 1) % 6, steps=12)
    assert model.head.weight is model.embedding.weight
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert sum(p is model.head.weight for p in trained) == 1
    assert len([o for o in run.optimizer.summary() if o.shape == (6, 4)]) == 1


class Repeated(nn.Module):
    """One layer, three times in a forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.layer(x).tanh()
        return self.head(x)


@weights("One module called many times", "each call counts as further positions: statistics equal loops in float64; " + TRAINS)
def called_often(method: type[Method]) -> None:
    assert_exact(method, Repeated(), "layer", inputs(4, 4))
    assert_trains(method, Repeated(), *learnable(32, 4), curved={"layer", "head"})


class Symmetric(nn.Module):
    """A parametrisation: the upper triangle, mirrored."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


@weights("`torch.nn.utils.parametrize`", UNCURVED + "; the weight keeps its constraint")
def parametrised(method: type[Method]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        parametrize.register_parametrization(nn.Linear(4, 4), "weight", Symmetric()), nn.Tanh(), nn.Linear(4, 3)
    )
    with pytest.warns(UserWarning, match="it takes part in the computation of a weight, but not as its rows"):
        assert_trains(method, model, *learnable(32, 4), curved={"2"})
    assert torch.equal(model[0].weight, model[0].weight.mT)


@weights("`weight_norm`, `spectral_norm`", "curvature from the second step on; " + TRAINS)
def weight_norm(method: type[Method]) -> None:
    torch.manual_seed(1)
    for norm, weight in ((parametrizations.weight_norm, "original1"), (parametrizations.spectral_norm, "original")):
        model = nn.Sequential(norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
        found = f"0.parametrizations.weight.{weight}"
        assert_trains(method, model, *learnable(32, 4), steps=15, curved={"2", found})


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank pair beside it, as PEFT builds them: B starts at zero."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


@weights(
    "LoRA", "the frozen base is bit-equal, without hooks; the adapters have curvature; every one of them moves, the loss falls"
)
def lora(method: type[Method]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(Adapted(nn.Linear(4, 6)), nn.Tanh(), Adapted(nn.Linear(6, 3)))
    assert_trains(method, model, *learnable(32, 4), curved={f"{k}.lora_{side}" for k in (0, 2) for side in "AB"}, steps=12)
    bases = [module.base for module in (model[0], model[2])]
    assert all(base.weight.grad is None and not base._forward_hooks and not base._forward_pre_hooks for base in bases)


@weights("`functional_call` with the model's own parameters", "bit-equal to calling the model")
def functional_call(method: type[Method]) -> None:
    runs = []
    for functional in (False, True):
        model = plain()

        def forward(x: Tensor, model: nn.Module = model) -> Tensor:
            return torch.func.functional_call(model, dict(model.named_parameters()), (x,))

        run = start(method, model, **OFTEN)
        for x, y in batches(4, 4):
            run.step(x, y, forward if functional else None)
        runs.append(run)
    assert_same(*runs)


@weights("Model built on the meta device", "after `to_empty` and initialisation bit-equal to a model built on the CPU")
def built_on_meta(method: type[Method]) -> None:
    with torch.device("meta"):
        model = plain()
    model.to_empty(device="cpu")
    torch.manual_seed(1)
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert_same(*(start(method, each).steps(batches(4, 4)) for each in (model, plain())))


class Extended(nn.Module):
    """A body and a head that may be added later."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(4, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh())


def extended(method: type[Method]) -> Run:
    run = start(method, Extended(), warmup=3)
    run.model.head = nn.Linear(3, 3)
    run.optimizer.add_param_group({"params": list(run.model.head.parameters()), "adamw_lr_ratio": 0.1})
    return run


@weights(
    "`add_param_group`", "the new layer gets curvature, it and the old ones move, the loss falls, a checkpoint resumes bit-equal"
)
def added_parameters(method: type[Method]) -> None:
    run, data = extended(method), learnable(32, 4)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.steps([data] * 8)
    assert len(before) == 4
    assert not any(torch.equal(p, b) for p, b in zip(run.model.parameters(), before, strict=True))
    assert run.losses[-1] < 0.97 * run.losses[0]
    assert {name for name, block in run.optimizer.blocks.items() if block.ready} == {"body", "head"}
    assert run.optimizer.param_groups[1]["adamw_lr_ratio"] == 0.1
    assert_resumes(run, extended(method), data)
