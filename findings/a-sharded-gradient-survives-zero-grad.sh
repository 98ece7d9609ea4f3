#!/usr/bin/env bash
# torch 2.13.0, fully_shard (FSDP2), gloo, one process.
#
# What one guesses: gradients of micro-batches that are not synchronised (set_requires_gradient_sync(False)) stand in `.grad`, as under
# DistributedDataParallel's no_sync(); a hook that waits for the accumulation of a gradient is told of each; and zero_grad() drops them,
# so that a batch that went wrong can be left out.
# What happens: after such a backward pass `.grad` is None, and the hook was not called. The gradient is held elsewhere, where zero_grad()
# does not reach it: the next synchronised backward pass adds it to its own. DistributedDataParallel does what one guesses.
#
# Seen:
#   DistributedDataParallel: .grad after an unsynchronised pass: there; hook calls: 1; after zero_grad() and another pass: the second batch's
#   fully_shard: .grad after an unsynchronised pass: None; hook calls: 0; after zero_grad() and another pass: the sum of both batches'
#
# For our users: what was measured of a batch that is dropped this way is dropped, its gradient is not (docs/processes.md); all passes
# since the last synchronised one count where the hook is called (capture/hooks.py, `accumulated`; tests/optimizer/test_fsdp.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/gradients.py" <<'PYTHON'
import contextlib
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
first, second = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
found = []
for name in ("DistributedDataParallel", "fully_shard"):
    layer, calls = nn.Linear(3, 1, bias=False), []
    sharded = name == "fully_shard"
    model = fully_shard(layer, mesh=init_device_mesh("cpu", (1,))) if sharded else DistributedDataParallel(layer)
    layer.weight.register_post_accumulate_grad_hook(lambda p, calls=calls: calls.append(p))
    with contextlib.nullcontext() if sharded else model.no_sync():
        if sharded:
            model.set_requires_gradient_sync(False)
        model(first).sum().backward()
    there, told = layer.weight.grad is not None, len(calls)
    model.zero_grad()
    if sharded:
        model.set_requires_gradient_sync(True)
    model(second).sum().backward()
    grad = layer.weight.grad.full_tensor() if sharded else layer.weight.grad
    kept = torch.equal(grad, first + second)
    assert kept or torch.equal(grad, second)
    found.append((there, told, kept))
    last = "the sum of both batches'" if kept else "the second batch's"
    print(f"{name}: .grad after an unsynchronised pass: {'there' if there else 'None'}; hook calls: {told}; "
          f"after zero_grad() and another pass: {last}")
distributed.destroy_process_group()
sys.exit(found != [(True, 1, False), (False, 0, True)])
PYTHON
"$folder/venv/bin/python" "$folder/gradients.py" "$folder" 2>/dev/null
