"""nn.MultiheadAttention in training: what is measured, what falls back, and that the model computes what it did."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lngd import KFAC, LNGD, FisherType, Schedule
from lngd.optimizer import NaturalGradient
from reference import batch, differences, snapshot, train_step

WIDTH, HEADS, TOKENS = 4, 2, 3
STILL = {"lr": 0.0, "step_size": "constant", "schedule": Schedule(curvature_every=1)}
METHODS = {"LNGD": LNGD, "KFAC": KFAC}
every_method = pytest.mark.parametrize("kind", METHODS)


class Headed(nn.Module):
    """Any attention on tokens, and a head on their mean."""

    def __init__(self, module: nn.Module, *, unbatched: bool = False, memory: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.module, self.head = module, nn.Linear(WIDTH, 3)
        self.unbatched, self.memory, self.batch_first = unbatched, memory, batch_first

    def forward(self, x: Tensor) -> Tensor:
        if self.unbatched:
            return self.head(torch.stack([self.attended(sample).mean(0) for sample in x]))
        x = x if self.batch_first else x.transpose(0, 1)
        return self.head(self.attended(x).mean(1 if self.batch_first else 0))

    def attended(self, x: Tensor) -> Tensor:
        if isinstance(self.module, nn.MultiheadAttention):
            return self.module(x, *(x[..., : self.module.kdim], x[..., : self.module.vdim]))[0]
        return self.module(x, x.flip(-1)) if self.memory else self.module(x)


REFUSED = {
    "kdim": ({"kdim": 3}, {}, "kdim or vdim", ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")),
    "vdim": ({"vdim": 2}, {}, "kdim or vdim", ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")),
    "add_bias_kv": ({"add_bias_kv": True}, {}, "add_bias_kv", ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v")),
    "unbatched": ({}, {"unbatched": True}, "without a batch dimension", ("in_proj_weight", "in_proj_bias", "out_proj.weight")),
}


def after_a_step(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> NaturalGradient:
    """An optimizer that has had its first step; where curvature is missing, one of both says so."""
    optimizer = METHODS[kind](model)
    train_step(model, optimizer, x, y)
    return optimizer


@every_method
@pytest.mark.parametrize("case", REFUSED)
def test_other_attention_falls_back_with_a_reason_and_trains(case, kind):
    options, use, reason, names = REFUSED[case]
    torch.manual_seed(1)
    model, (x, y) = Headed(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options), **use).double(), batch(8, 3, WIDTH)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match=f"AdamW trains .*{reason}"):
        optimizer = after_a_step(kind, model, x, y)
    for _ in range(2):
        train_step(model, optimizer, x, y)
    outcomes = {o.name: o for o in optimizer.summary()}
    for name in names:
        assert outcomes[f"module.{name}"].kind == "fallback"
        assert reason in outcomes[f"module.{name}"].reason
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []
    assert optimizer.blocks["head"].ready


LAYERS = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}


def transformer(kind: str, *, batch_first: bool) -> Headed:
    torch.manual_seed(1)
    layer = LAYERS[kind](WIDTH, HEADS, dim_feedforward=6, dropout=0.0, batch_first=batch_first)
    return Headed(layer, memory=kind == "decoder", batch_first=batch_first).double()


@every_method
@pytest.mark.parametrize("layer", LAYERS)
def test_every_projection_is_measured_whichever_dimension_the_batch_is(layer, kind):
    found, (x, y) = [], batch(8, TOKENS, WIDTH)
    for batch_first in (True, False):
        model = transformer(layer, batch_first=batch_first)
        optimizer = METHODS[kind](model, fisher=FisherType.EMPIRICAL, **STILL)
        train_step(model, optimizer, x, y)
        attention = ["module.self_attn"] + (["module.multihead_attn"] if layer == "decoder" else [])
        names = {*attention, *(f"{name}.out_proj" for name in attention), "module.linear1", "module.linear2", "head"}
        assert {name for name, block in optimizer.blocks.items() if block.ready} == names
        found.append({f"{n}.{k}": getattr(optimizer.blocks[n], k) for n in names for k in optimizer.blocks[n].statistics})
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], msg=name)


class Recomputed(nn.Module):
    """A Transformer layer inside non-reentrant checkpointing."""

    def __init__(self, kind: str, *, recompute: bool) -> None:
        super().__init__()
        self.inner, self.recompute = transformer(kind, batch_first=True), recompute

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False) if self.recompute else self.inner(x)


@pytest.mark.parametrize("fisher", FisherType)
@pytest.mark.parametrize("layer", LAYERS)
@every_method
def test_activation_checkpointing_gives_the_same_bits(kind, layer, fisher):
    runs, (x, y) = [], batch(8, TOKENS, WIDTH)
    for recompute in (False, True):
        model = Recomputed(layer, recompute=recompute)
        generator = torch.Generator().manual_seed(5)
        optimizer = METHODS[kind](model, fisher=fisher, schedule=2, generator=generator)
        for _ in range(4):
            train_step(model, optimizer, x, y)
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_in_evaluation_the_output_is_that_without_the_optimizer(layer, grad):
    model, x = transformer(layer, batch_first=True), batch(8, TOKENS, WIDTH)[0]
    optimizer = LNGD(model)
    train_step(model, optimizer, *batch(8, TOKENS, WIDTH))
    bare = transformer(layer, batch_first=True)
    bare.load_state_dict(model.state_dict())
    with torch.set_grad_enabled(grad):
        assert torch.equal(model.eval()(x), bare.eval()(x))
