"""Mixtures of experts of transformers: every way in which it computes them gives the experts curvature, and the same run."""

from typing import Any

import pytest
import torch
import transformers

from lngd import LNGD, SpectralLNGD

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
FEWER = {"num_experts": 4, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, Any]] = {"Mixtral": EXPERTS, "Qwen3Moe": EXPERTS, "GptOss": EXPERTS, "Olmoe": FEWER}


def trained(name: str, implementation: str, method: type, dtype: torch.dtype = torch.float64) -> tuple[float, list[str]]:
    """The loss of the fourth step, and which matrices have no curvature."""
    config = getattr(transformers, f"{name}Config")(**SIZES, **MIXTURES[name])
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")._from_config(config, experts_implementation=implementation).to(dtype)
    optimizer, tokens = method(model, mean_over="token"), torch.randint(0, 64, (4, 16))
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
    matrices = [row for row in optimizer.summary() if len(row.shape) > 1 and "curvature=True" not in row.reason]
    return loss.item(), [row.name for row in matrices if row.kind == "fallback"]


@pytest.mark.filterwarnings("error::UserWarning:lngd")
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_have_curvature_however_they_are_computed(name: str, method: type) -> None:
    losses = []
    for implementation in ("eager", "batched_mm"):
        loss, lost = trained(name, implementation, method)
        assert [each for each in lost if not each.endswith("_bias")] == []
        losses.append(loss)
    exact = method is SpectralLNGD  # LNGD's noise and the rows of its rate come in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if exact else 1e-3)


@pytest.mark.filterwarnings("error::UserWarning:lngd")
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
@pytest.mark.parametrize("name", MIXTURES)
def test_a_grouped_product_of_experts_gives_the_same_run(name: str, method: type) -> None:
    """torch has it for float32 and less."""
    (one, _), (two, lost) = (trained(name, implementation, method, torch.float32) for implementation in ("eager", "grouped_mm"))
    assert [each for each in lost if not each.endswith("_bias")] == []
    assert one == pytest.approx(two, rel=1e-3)
