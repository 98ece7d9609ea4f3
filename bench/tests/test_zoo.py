"""The zoo on a few model types of each kind; `make zoo` tries all."""

import pytest
import torch
from torch import nn

from lngd_bench.errors import BenchError
from lngd_bench.studies.zoo.__main__ import main, page
from lngd_bench.studies.zoo.of_transformers import types
from lngd_bench.studies.zoo.shrinking import loss_of, small
from lngd_bench.studies.zoo.trial import FINE, METHODS, outcome

KINDS = {
    "attention's weights without their module": ("falcon", "beit", "xlnet"),
    "experts in one parameter": ("mixtral", "olmoe", "gpt_oss", "qwen3_moe", "deepseek_v3"),
    "encoders and decoders of text": ("bert", "roberta", "deberta-v2", "t5", "bart", "gpt2", "llama", "biogpt", "electra"),
    "layers that are shared, convolved or recurrent": ("albert", "squeezebert", "mamba", "rwkv"),
    "images": ("vit", "swin", "clip", "siglip", "resnet", "regnet", "convnext", "poolformer", "mobilevit", "segformer"),
    "images with parameters that are added": ("sam3_vision_model", "dinov2"),
    "sound, with normed weights": ("whisper", "wav2vec2", "hubert", "unispeech-sat"),
    "tables, and others": ("tapas", "visual_bert", "layoutlm"),
}
TYPES = [name for kind in KINDS.values() for name in kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_a_type_trains_with_curvature_on_its_matrices(name: str) -> None:
    found = outcome(types()[name])
    assert found["outcome"] == "built"
    for method in METHODS:
        assert found[method]["outcome"] == FINE
        assert found[method]["share"] > 0.9
        assert all("AdamW trains it from now on" not in message for message in found[method]["warnings"])


def test_sizes_are_known_by_their_names() -> None:
    wanted = {"hidden_size": 32, "num_attention_heads": 4, "image_token_id": 119, "num_channels": 4096, "anything": 4096}
    assert {name: small(name, 4096, {}) for name in wanted} == wanted
    assert small("num_heads", 3, {}) == 2
    assert small("head_dim", 64, {r".*head_(dim|size)": 0}) == 8


def test_the_loss_is_of_all_that_depends_on_weights() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    noise = torch.randn(1, generator=torch.Generator().manual_seed(0)).item()
    assert loss_of({"one": weight, "other": (torch.ones(4), "words")}).item() == pytest.approx((2 - noise) ** 2)
    assert loss_of((weight, 3 * weight)).item() > loss_of(weight).item()
    with pytest.raises(ValueError, match="depends on its weights"):
        loss_of((torch.ones(2),))


def test_the_page_counts_types_and_names_what_is_left() -> None:
    fine = {"outcome": FINE, "seconds": 0.2, "share": 1.0, "lost": [], "warnings": []}
    built = {"outcome": "built", "version": "5", "adamw": {"seconds": 0.1}}
    lines = [
        {"type": "one", **built, **dict.fromkeys(METHODS, fine)},
        {"type": "two", **built, **dict.fromkeys(METHODS, fine | {"share": 0.5, "lost": ["no curvature for GRU"]})},
        {"type": "three", "outcome": "AdamW does not train it", "version": "5"},
    ]
    text = page(lines, "transformers")
    assert "Of 3 model types of transformers 5, 2 could be made small" in text
    assert "| LNGD          |  2 of 2 |         1 of 2 |             75% |" in text
    assert "| two    | 50%     | no curvature for GRU |" in text
    assert "| one" not in text


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(BenchError, match="no model type parrot"):
        main(["--types", "parrot"])
