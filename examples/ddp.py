"""DistributedDataParallel: torchrun --nproc-per-node 2 examples/ddp.py"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from lngd import SpectralLNGD
from patterns import Patterns, classifier

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
device = torch.device("cuda", dist.get_rank()) if torch.cuda.is_available() else torch.device("cpu")
torch.manual_seed(0)
model = DistributedDataParallel(classifier().to(device))
optimizer = SpectralLNGD(model)  # it asks torch.distributed whom to agree with
data = Patterns()
loader = DataLoader(data, batch_size=64, sampler=DistributedSampler(data, seed=0))
for epoch in range(4):
    loader.sampler.set_epoch(epoch)
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}", flush=True)
dist.destroy_process_group()
