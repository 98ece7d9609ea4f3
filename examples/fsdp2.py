"""fully_shard (FSDP2) and its checkpoints: torchrun --nproc-per-node 2 examples/fsdp2.py"""

import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from lngd import LNGD
from patterns import Patterns, classifier

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
kind = "cuda" if torch.cuda.is_available() else "cpu"
mesh = init_device_mesh(kind, (dist.get_world_size(),))
data = Patterns()


def build():
    """The model is sharded first, then the optimizer is built."""
    torch.manual_seed(0)
    model = classifier()
    for block in model[1:-1]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, LNGD(model)


def train(model, optimizer, epochs):
    loader = DataLoader(data, batch_size=64, sampler=DistributedSampler(data, seed=0))
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(kind)), y.to(kind))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}", flush=True)


model, optimizer = build()
train(model, optimizer, range(2))
folder = [tempfile.mkdtemp()]
dist.broadcast_object_list(folder)
weights, state = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])

model, optimizer = build()  # another run, on any number of processes
weights, state = get_state_dict(model, optimizer)
dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
train(model, optimizer, range(2, 4))
dist.destroy_process_group()
