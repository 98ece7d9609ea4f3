"""transformers, the real library, on tiny random models."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lngd import KFAC, LNGD, SpectralLNGD, check_layer


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, **heads))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    tokens = (torch.arange(16).unsqueeze(1) + 3 * torch.arange(8)) % 31
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC], ids=lambda method: method.__name__)
def test_gpt2_has_curvature_in_its_conv1d_and_trains(method):
    model = gpt2()
    optimizer = method(model)
    curved = {o.name.rsplit(".", 2)[1] for o in optimizer.summary() if o.kind == "curvature"}
    assert curved == {"c_attn", "c_proj", "c_fc"}
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 15) < 0.95 * first


def test_gpt2s_conv1d_holds_against_autograd():
    check_layer(gpt2().transformer.h[0].mlp.c_fc, torch.randn(4, 5, 16))


def test_a_part_that_is_unfrozen_later_trains():
    model = llama()
    model.model.layers[0].requires_grad_(False)
    optimizer = LNGD(model)
    train(model, optimizer, 2)
    model.model.layers[0].requires_grad_(True)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    train(model, optimizer, 3)
    assert not torch.equal(before, weight)
    (outcome,) = (o for o in optimizer.summary() if o.name == "model.layers.0.mlp.up_proj.weight")
    assert outcome.kind == "curvature"


def test_embeddings_that_are_resized_later_train():
    model = llama()
    optimizer = LNGD(model)
    train(model, optimizer, 2)
    model.resize_token_embeddings(40, mean_resizing=False)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding.shape == head.shape == (40, 16)
    before = embedding.detach().clone(), head.detach().clone()
    train(model, optimizer, 4)
    assert not torch.equal(before[0], embedding)
    assert not torch.equal(before[1], head)
    assert optimizer.state[embedding]["exp_avg"].shape == (40, 16)
