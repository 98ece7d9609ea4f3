import math

import pytest
import torch

from lngd_bench.tasks.imagenet_resnet50 import FULL, SECOND_ORDER
from lngd_bench.tasks.models.resnet import ResNet50


def test_resnet_50_is_the_originals_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet50().parameters()) == 25_557_032


def test_each_block_starts_as_its_shortcut() -> None:
    for block in ResNet50(4, classes=10).stages:
        x = torch.randn(2, block.reduce[0].in_channels, 8, 8)
        assert torch.equal(block(x), block.shortcut(x).relu())


def test_first_and_second_order_methods_have_the_papers_lengths() -> None:
    lengths = {name: FULL.of(name).total_epochs for name in ("sgd", "adamw", *SECOND_ORDER)}
    assert {lengths.pop("sgd"), lengths.pop("adamw")} == {80}
    assert set(lengths.values()) == {50}


def test_the_schedules_are_the_papers_formulas_with_its_warm_up_of_five_epochs() -> None:
    steps = FULL.steps_an_epoch
    sgd, kfac, lngd = (FULL.of(name).schedule for name in ("sgd", "kfac", "lngd"))
    assert sgd(0, 80 * steps, 0.1) == pytest.approx(1 / (5 * steps), rel=1e-3)
    cosine = (0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(2 * 0.47 * math.pi * 5 / 80))) / 0.1
    assert sgd(5 * steps, 80 * steps, 0.1) == pytest.approx(cosine)
    assert kfac(5 * steps, 50 * steps, 0.1) == pytest.approx((1 - 5 / 50) ** 4)
    assert lngd(0, 50 * steps, 1.0) == 1
    assert lngd(25 * steps, 50 * steps, 1.0) == pytest.approx(0.5**4)
