"""Lightning: a schedule, accumulation, clipping, a resumed run: python examples/lightning_module.py"""

import tempfile
from pathlib import Path

import lightning
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from lngd import SpectralLNGD
from patterns import Patterns, classifier

EPOCHS, BATCH, ACCUMULATED = 4, 32, 2


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = classifier()

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def on_train_epoch_end(self):
        self.print(f"epoch {self.current_epoch}: loss {self.trainer.callback_metrics['loss']:.3f}")

    def configure_optimizers(self):
        optimizer = SpectralLNGD(self)
        scheduler = CosineAnnealingLR(optimizer, EPOCHS * len(Patterns()) // (BATCH * ACCUMULATED))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(folder, epochs, checkpoint=None):
    """Trains up to that many epochs, from the start or from a checkpoint; returns the trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        default_root_dir=folder,
        devices=1,
        max_epochs=epochs,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=1.0,
        **quiet,
    )
    trainer.fit(Classifier(), DataLoader(Patterns(), BATCH, shuffle=True), ckpt_path=checkpoint, weights_only=True)
    return trainer


if __name__ == "__main__":
    lightning.seed_everything(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "half-way.ckpt")
        fit(folder, EPOCHS // 2).save_checkpoint(path)
        fit(folder, EPOCHS, path)
