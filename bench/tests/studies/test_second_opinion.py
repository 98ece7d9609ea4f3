"""The exact blocks and K-FAC's factors against another library, written by other people: curvlinops."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from lngd import KFAC, FisherType
from lngd_bench.studies.fisher.exact import ExactCurvature

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from curvlinops import GGNLinearOperator, KFACLinearOperator

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # theirs, at import and at use

NETS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (4,)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
        (2, 4, 4),
    ),
}
LOSS = nn.CrossEntropyLoss()


def case(kind: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    build, shape = NETS[kind]
    return build().double(), torch.randn(8, *shape, dtype=torch.float64), torch.randint(0, 3, (8,))


def blocks(operator: GGNLinearOperator | KFACLinearOperator, model: nn.Module) -> dict[str, Tensor]:
    """Each layer's block with the bias as the last input of each output, from an operator over all parameters in order."""
    dense, start, found = operator @ torch.eye(operator.shape[1], dtype=torch.float64), 0, {}
    for name, module in model.named_children():
        if hasattr(module, "weight"):
            outputs, weights = len(module.weight), module.weight.numel()
            rows = torch.arange(weights).reshape(outputs, -1)
            order = start + torch.cat([rows, weights + torch.arange(outputs).unsqueeze(1)], 1).flatten()
            found[name] = dense[order][:, order]
            start += weights + outputs
    return found


@pytest.mark.parametrize("kind", NETS)
def test_the_exact_fisher_block_is_the_gauss_newton_block(kind):
    model, x, y = case(kind)
    expected = blocks(GGNLinearOperator(model, LOSS, list(model.parameters()), [(x, y)]), model)
    exact = ExactCurvature(model, x)
    for name, block in expected.items():
        torch.testing.assert_close(exact.fisher(name), block)


@pytest.mark.parametrize("kind", NETS)
def test_kfac_has_the_same_factors(kind):
    model, x, y = case(kind)
    options = {"fisher_type": "empirical", "kfac_approx": "expand", "separate_weight_and_bias": False}
    expected = blocks(KFACLinearOperator(model, LOSS, list(model.parameters()), [(x, y)], **options), model)
    optimizer = KFAC(model, fisher=FisherType.EMPIRICAL, lr=0.0)
    LOSS(model(x), y).backward()
    optimizer.step()
    for name, block in expected.items():
        torch.testing.assert_close(optimizer.blocks[name].dense(), block)
