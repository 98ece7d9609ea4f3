#!/usr/bin/env bash
# torch 2.13.0 (CPU build).
#
# What one guesses: a checkpoint that is saved and loaded gives an optimizer its state back, bit for bit.
# What happens: torch.optim.Optimizer.load_state_dict casts every floating-point tensor of `state` to the dtype of its parameter, all but
# the entry named "step", without a word. An optimizer that keeps float32 averages, factors or master weights for a bfloat16 parameter
# gets them back as bfloat16, also from a state_dict that never left the process. torch.save is not to blame: the file holds float32.
#
# Seen:
#   in the state dict torch.float32 after loading torch.bfloat16 largest change 0.000651
#   under the name 'step' torch.float32
#
# For our users: lngd's load_state_dict takes the tensors from the checkpoint itself, in the dtype of its statistics
# (tests/optimizer/test_checkpoint.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch


class Averaging(torch.optim.Optimizer):
    """Keeps an average of the gradient in float32."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["average"] = p.grad.float() / 3
                self.state[p]["step"] = torch.tensor(1.0)


p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
optimizer = Averaging([p])
(p * torch.tensor([1.0, 0.7, 0.3, 0.1])).sum().backward()
optimizer.step()
saved = {name: t.clone() for name, t in optimizer.state_dict()["state"][0].items()}
optimizer.load_state_dict(optimizer.state_dict())
loaded = optimizer.state[p]
change = (loaded["average"].float() - saved["average"]).abs().max().item()
print("in the state dict", saved["average"].dtype, "after loading", loaded["average"].dtype, f"largest change {change:.6f}")
print("under the name 'step'", loaded["step"].dtype)
assert saved["average"].dtype == torch.float32
assert loaded["average"].dtype == torch.bfloat16 and change > 0
assert loaded["step"].dtype == torch.float32
PYTHON
