import sys

import pytest
import torch

from lngd_bench.cli.names import optimizers_named
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.errors import BenchError
from lngd_bench.tasks.models.mobilenet import MobileNet
from lngd_bench.training.train import RunSpec, train
from runs import TOY, toy_split

PEERS = [name for name, competitor in OPTIMIZERS.items() if competitor.third_party]


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_package_is_one_error_that_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for module in [key for key in sys.modules if key.split(".")[0] == OPTIMIZERS[name].third_party]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BenchError, match="pip install"):
        optimizers_named(f"sgd,{name}")


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_learns(name: str) -> None:
    rows = list(train(RunSpec(TOY, name, OPTIMIZERS[name].customary * 3, 0), toy_split()))
    assert rows[-1].train_loss < rows[0].train_loss


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_takes_depthwise_convolutions_and_norms(name: str) -> None:
    model = MobileNet(((8, 1), (12, 2)), 4, channels=1)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = OPTIMIZERS[name].build(model, Setting(lr=0.01))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 12, 12)).logsumexp(-1).mean().backward()
        optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
