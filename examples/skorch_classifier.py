"""skorch: scikit-learn's interface, and a net that is saved and goes on: python examples/skorch_classifier.py"""

import tempfile
from pathlib import Path

import torch
from skorch import NeuralNetClassifier
from torch import nn

from lngd import LNGD
from patterns import Patterns, classifier


class Classifier(NeuralNetClassifier):
    def initialize_optimizer(self, triggered_directly=None):
        """skorch gives an optimizer parameters alone; ours wants the model before them. `optimizer__…` works as ever."""
        groups, options = self.get_params_for_optimizer("optimizer", self.get_all_learnable_params())
        self.optimizer_ = self.optimizer(self.module_, *groups, **options)
        return self


def build():
    return Classifier(
        classifier,
        criterion=nn.CrossEntropyLoss,
        optimizer=LNGD,
        lr=0.25,  # LNGD's default; skorch's would be 0.01
        optimizer__schedule=10,
        batch_size=64,
        iterator_train__shuffle=True,
        verbose=0,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


torch.manual_seed(0)
x, y = (tensor.numpy() for tensor in Patterns().tensors)
net = build().fit(x, y, epochs=2)
with tempfile.TemporaryDirectory() as folder:
    files = {f"f_{part}": str(Path(folder, part)) for part in ("params", "optimizer", "history")}
    net.save_params(**files)
    net = build().initialize()
    net.load_params(**files)
net.partial_fit(x, y, epochs=2)
for epoch, row in enumerate(net.history):
    print(f"epoch {epoch}: loss {row['train_loss']:.3f}, accuracy on held-out samples {row['valid_acc']:.3f}")
