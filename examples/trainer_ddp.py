"""Transformers' Trainer: torchrun --nproc-per-node 2 examples/trainer_ddp.py"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from lngd import SpectralLNGD


class Counting(Dataset):
    """Sequences of tokens that count on in threes."""

    def __len__(self):
        return 512

    def __getitem__(self, index):
        tokens = (index + 3 * torch.arange(16)) % 64
        return {"input_ids": tokens, "labels": tokens}


torch.manual_seed(0)
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, **size))
optimizer = SpectralLNGD(model, mean_over="token")
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=4,
        per_device_train_batch_size=16,
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model, arguments, train_dataset=Counting(), optimizers=(optimizer, None))
    trainer.train()
if trainer.is_world_process_zero():
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"epoch {entry['epoch']:.0f}: loss {float(entry['loss']):.3f}")
