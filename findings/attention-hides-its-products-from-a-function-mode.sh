#!/usr/bin/env bash
# torch 2.13.0.
#
# What one guesses: a TorchFunctionMode sees each F.linear that a model computes, so it can count products or find which weights are used.
# What happens: while the mode handles one function it is off. F.multi_head_attention_forward is such a function, written in Python, so the
# products with attention's four projections are computed where nobody looks: of a TransformerEncoderLayer the mode sees the two linear layers
# behind attention and none of attention's own. A TorchDispatchMode sees all of them, without the weights' names.
#
# Seen:
#   attention, functions: {'multi_head_attention_forward': 1}
#   attention, dispatched: {'mm': 1, 'addmm': 1}
#   encoder layer, functions: {'multi_head_attention_forward': 1, 'linear': 2}
#   encoder layer, dispatched: {'mm': 1, 'addmm': 3}
#
# For our users: weights that are multiplied outside their module are found by a function mode (src/lngd/capture/uses.py); attention's are read
# off the autograd graph instead (src/lngd/capture/attention.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from collections import Counter

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("multi_head_attention_forward", "linear", "mm", "addmm")


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen[function.__name__] += 1
        return function(*args, **(kwargs or {}))


class Dispatched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


layer, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.randn(2, 3, 8)
calls = {"attention": lambda: layer.self_attn(x, x, x), "encoder layer": lambda: layer(x)}
expected = {
    ("attention", "functions"): {"multi_head_attention_forward": 1},
    ("attention", "dispatched"): {"mm": 1, "addmm": 1},
    ("encoder layer", "functions"): {"multi_head_attention_forward": 1, "linear": 2},
    ("encoder layer", "dispatched"): {"mm": 1, "addmm": 3},
}
for name, call in calls.items():
    for kind in (Functions, Dispatched):
        with kind() as mode:
            call()
        seen = {product: mode.seen[product] for product in PRODUCTS if mode.seen[product]}
        print(f"{name}, {kind.__name__.lower()}: {seen}")
        assert seen == expected[name, kind.__name__.lower()]
PYTHON
