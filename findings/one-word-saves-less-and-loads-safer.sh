#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.13.0 (CPU build).
#
# What one guesses: weights_only=True, which Trainer.fit takes for its ckpt_path=, means what it means to torch.load, "unpickle nothing but tensors
# and plain types"; so it means the same to Trainer.save_checkpoint, and a run that is careful gives it to both.
# What happens: to save_checkpoint it means "leave out the optimizers, schedulers and callbacks". The file looks like any checkpoint, nothing is
# said as it is written, and the run that wants to go on from it ends in a KeyError. A full checkpoint loads with weights_only=True.
#
# Seen:
#   saved with weights_only=False: optimizer in the file True; fit(ckpt_path=…, weights_only=True): step 8
#   saved with weights_only=True: optimizer in the file False; fit(ckpt_path=…, weights_only=True): KeyError
#
# For our users: docs/precision.md says which of the two keeps the optimizer; examples/lightning_module.py resumes with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON'
import logging, tempfile, warnings
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, _):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(epochs):
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


torch.manual_seed(0)
found = []
data = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=8)
with tempfile.TemporaryDirectory() as folder:
    first = trainer(1)
    first.fit(Model(), data)
    for safe in (False, True):
        path = f"{folder}/{safe}.ckpt"
        first.save_checkpoint(path, weights_only=safe)
        kept = "optimizer_states" in torch.load(path, weights_only=True)
        try:
            second = trainer(2)
            second.fit(Model(), data, ckpt_path=path, weights_only=True)
            outcome = f"step {second.global_step}"
        except KeyError:
            outcome = "KeyError" 
        line = f"saved with weights_only={safe}: optimizer in the file {kept}; fit(ckpt_path=…, weights_only=True): {outcome}"
        print(line)
        found.append((kept, outcome))
assert found == [(True, "step 8"), (False, "KeyError")], found
PYTHON
