#!/usr/bin/env bash
# torch 2.13.0, DistributedDataParallel, gloo, two processes.
#
# What one guesses: a hook that torch runs "after the gradient has been accumulated" finds in `.grad` what the step will find there, the
# mean over all processes; at the latest, what is called back at the end of the backward pass does.
# What happens: the hook finds this process's own gradient. So does a callback at the end of the backward pass that the hook has asked
# for, and with gradient_as_bucket_view=True it finds that over the number of processes, which is no one's gradient: DDP asks for its
# own callback, in which the means are put in place, later. Only a callback that such a callback asks for finds the mean. An optimizer
# that steps in such hooks trains each process on its own data, and whoever compares gradients then and now, as to find a loss scale,
# takes the averaging for a change of scale.
#
# Seen:
#   process 0: hook 1, end of the backward pass 1, end of the end 2, after it 2
#   process 1: hook 3, end of the backward pass 3, end of the end 2, after it 2
#   process 0: hook 1, end of the backward pass 0.5, end of the end 2, after it 2
#   process 1: hook 3, end of the backward pass 1.5, end of the end 2, after it 2
#
# For our users: the loss scale of a GradScaler is found from what is there at the end of the end (optimizer/guards.py;
# tests/optimizer/test_processes.py trains with a scaler in two processes).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/hooks.py" <<'PYTHON'
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def work(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    later = torch.autograd.Variable._execution_engine.queue_callback
    for view in (False, True):
        layer, seen = nn.Linear(1, 1, bias=False), []
        model = DistributedDataParallel(layer, gradient_as_bucket_view=view)

        def hook(p, seen=seen):
            def end():
                seen.append(p.grad.item())
                later(lambda: seen.append(p.grad.item()))

            seen.append(p.grad.item())
            later(end)

        layer.weight.register_post_accumulate_grad_hook(hook)
        model(torch.tensor([[1.0 + 2 * rank]])).sum().backward()
        seen.append(layer.weight.grad.item())
        names = ("hook", "end of the backward pass", "end of the end", "after it")
        print(f"process {rank}:", ", ".join(f"{name} {value:g}" for name, value in zip(names, seen)), flush=True)
        own = 1.0 + 2 * rank
        assert seen == [own, own / 2 if view else own, 2.0, 2.0]
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
PYTHON
"$folder/venv/bin/python" "$folder/hooks.py" "$folder"
