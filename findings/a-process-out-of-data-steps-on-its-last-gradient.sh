#!/usr/bin/env bash
# torch 2.13.0, DistributedDataParallel and ZeroRedundancyOptimizer under torch.distributed.algorithms.join.Join, gloo, two processes.
#
# What one guesses: `with Join([model, optimizer])` is for processes with unequal numbers of batches. One that has run out of data
# shadows the others' collectives, adds zeros to their gradients, and its share of the sharded step is taken with their mean; as with
# a plain optimizer under `Join([model])`, of which only the processes that still have data step.
# What happens: the model's hook drops the sum that it shadows, so no gradient arrives where the data has ended. The optimizer's hook
# calls step() all the same: the weights whose update is that process's work move by the gradient of its own last batch, once more in
# every step that the others take, and are broadcast to them. The rest of the weights follow the data.
#
# Seen (how far two weights move in each step that process 1, which has 6 batches, takes; process 0 has 2):
#   owned by process 0, out of data: 0.0500 0.0500 0.0500 0.0500 0.0500 0.0500
#   owned by process 1:              0.0500 0.0500 0.1500 0.2000 0.2500 0.3000
#
# For our users: under Join a process out of data is sent the gradients (optimizer/uneven.py; tests/optimizer/test_processes.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/uneven.py" <<'PYTHON'
import sys

import torch
from torch import distributed, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel


BATCHES = (0.0, 0.0), (1.0, 1.0, 3.0, 4.0, 5.0, 6.0)  # of each process; a gradient is half of their sum


class Two(nn.Module):
    """A weight for each process, both with the batch as their gradient."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x * (self.first + self.second)


def work(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    two = Two()
    model = DistributedDataParallel(two)
    optimizer = ZeroRedundancyOptimizer(two.parameters(), torch.optim.SGD, lr=0.1)
    moved = []
    with Join([model, optimizer]):
        for batch in BATCHES[rank]:
            before = [two.first.item(), two.second.item()]
            optimizer.zero_grad()
            model(torch.tensor([batch])).sum().backward()
            optimizer.step()
            moved.append([before[0] - two.first.item(), before[1] - two.second.item()])
    if rank == 1:
        columns = [[f"{amount:.4f}" for amount in column] for column in zip(*moved)]
        for column in columns:
            print(*column)
        assert sorted(columns) == [["0.0500"] * 6, ["0.0500", "0.0500", "0.1500", "0.2000", "0.2500", "0.3000"]]
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
PYTHON
"$folder/venv/bin/python" "$folder/uneven.py" "$folder"
