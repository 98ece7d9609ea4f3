"""LoRA: a GPT-2 that counts in threes learns to count in fives by its adapters: python examples/peft_lora.py"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from lngd import SpectralLNGD

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)


def counting(stride, size=32):
    """Sequences of tokens that count on by a stride."""
    return ((torch.randint(64, (size, 1)) + stride * torch.arange(16)) % 64).to(device)


def train(model, optimizer, stride, steps):
    """The mean loss."""
    losses = []
    for _ in range(steps):
        tokens = counting(stride)
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 4}
dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
model = GPT2LMHeadModel(GPT2Config(**sizes, **dropouts, bos_token_id=0, eos_token_id=0)).to(device)
optimizer = SpectralLNGD(model)
print(f"counting in threes: loss {train(model, optimizer, 3, 80):.3f}")
optimizer.close()  # takes its hooks off the model, which goes on without it

model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True))
optimizer = SpectralLNGD(model)  # what is frozen is left alone
for epoch in range(4):
    print(f"epoch {epoch}: loss {train(model, optimizer, 5, 40):.3f}")
