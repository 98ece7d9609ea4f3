#!/usr/bin/env bash
# torch 2.13.0 (CPU build).
#
# What one guesses: since an optimizer takes named parameters, groups made by a filter over model.named_parameters() ("decay" and "no decay")
# work whatever the model holds; an empty group is legal, and is with unnamed parameters.
# What happens: a group whose filter matched nothing counts as unnamed, and torch refuses named and unnamed groups in one optimizer. The
# usual two-group recipe so fails for a model in which one of the two is empty. The same two groups of unnamed parameters are taken.
#
# Seen:
#   unnamed: groups of [2, 0] parameters
#   named: ValueError all optimizer param groups should be with/without names. can ...
#
# For our users: lngd gives an empty group an empty list of names (tests/optimizer/test_groups.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch

model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))


def grouped(parameters, is_vector):
    parameters = list(parameters)
    return [
        {"params": [each for each in parameters if not is_vector(each)], "weight_decay": 0.1},
        {"params": [each for each in parameters if is_vector(each)], "weight_decay": 0.0},
    ]


optimizer = torch.optim.AdamW(grouped(model.parameters(), lambda p: p.ndim < 2))
sizes = [len(group["params"]) for group in optimizer.param_groups]
print("unnamed: groups of", sizes, "parameters")
assert sizes == [2, 0]
try:
    torch.optim.AdamW(grouped(model.named_parameters(), lambda named: named[1].ndim < 2))
except ValueError as error:
    print("named: ValueError", str(error)[:60], "...")
else:
    raise SystemExit("named groups, one of them empty, are taken now")
PYTHON
