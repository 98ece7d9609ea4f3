import pytest
import torch

from lngd_bench.tasks.models.gpt import Attention, ViT
from lngd_bench.tasks.models.mobilenet import MobileNet
from lngd_bench.tasks.models.resnet import ResNet50
from lngd_bench.tasks.models.transformer import BIG, Transformer
from lngd_bench.tasks.wmt_transformer_big import VOCABULARY

SIZES = {
    "ViT-S": (ViT, 21.4e6, 0.01),
    "MobileNet-v1": (lambda: MobileNet(classes=1000), 4.23e6, 0.01),
    "ResNet-50": (ResNet50, 25_557_032, 0),
    "Transformer-Big": (lambda: Transformer(VOCABULARY, **BIG), 213.7e6, 3e-4),
}


@pytest.mark.parametrize(("make", "size", "tolerance"), SIZES.values(), ids=SIZES)
def test_a_default_is_the_originals_size(make, size: float, tolerance: float) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == pytest.approx(size, rel=tolerance)


@pytest.mark.parametrize(("patch", "heads"), [(5, 2), (7, 3)])
def test_patches_that_do_not_tile_and_heads_that_do_not_share_are_refused(patch: int, heads: int) -> None:
    with pytest.raises(ValueError, match="must divide"):
        ViT(patch, 16, 1, heads, image=28)


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_position_is_blind_to_later_ones(causal: bool) -> None:
    layer, x = Attention(8, 2, causal=causal), torch.randn(1, 4, 8)
    changed = x.clone()
    changed[0, 3] += 1
    assert torch.allclose(layer(x)[0, :3], layer(changed)[0, :3]) == causal


def test_each_bottleneck_starts_as_its_shortcut() -> None:
    for block in ResNet50(4, classes=10).stages:
        x = torch.randn(2, block.reduce[0].in_channels, 8, 8)
        assert torch.equal(block(x), block.shortcut(x).relu())
