"""Lightning, fully sharded (FSDP2): python examples/lightning_fsdp2.py"""

import lightning
import torch.nn.functional as F
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lngd import LNGD
from patterns import Patterns, classifier


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = classifier()

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        for block in self.network[1:-1]:
            fully_shard(block, mesh=mesh)
        fully_shard(self.network, mesh=mesh)

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        self.log("loss", loss, on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def on_train_epoch_end(self):
        self.print(f"epoch {self.current_epoch}: loss {self.trainer.callback_metrics['loss']:.3f}")

    def configure_optimizers(self):
        return LNGD(self)


if __name__ == "__main__":
    lightning.seed_everything(0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(devices=2, strategy=ModelParallelStrategy(), max_epochs=4, **quiet)
    trainer.fit(Classifier(), DataLoader(Patterns(), 64, shuffle=True))
