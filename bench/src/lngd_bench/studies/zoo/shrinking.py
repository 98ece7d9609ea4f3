"""Any model type of transformers with a configuration that is tiny, and inputs that its forward takes."""

import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

VOCABULARY, POSITIONS, LARGEST = 120, 64, 3_000_000
HEADS = r".*head_(dim|size)|.*dim_head|d_kv|kv_channels|.*attention_head_size|qk_.*_dim|v_head_dim"
KEYS = r".*(num_key_value_heads|kv_heads|num_kv.*|n_kv.*)"
IMAGES = r".*image_size.*|input_size|.*frame_size.*|.*resolution"
WIDTHS = r".*(hidden_sizes?|d_model|n_embd|embed_dim|embedding_(dim|size)|dims?|width|channels|embed_dims)"
SIZES: tuple[tuple[str, int], ...] = (
    (r"type_vocab_size|num_labels|num_channels|in_channels|.*(kernel|stride|padding|dilation|group).*", 0),
    (r".*vocab_size.*|.*vocabulary.*", VOCABULARY),
    (KEYS, 2),
    (HEADS, 8),
    (r".*(heads|n_head)", 4),
    (r".*(experts_per_tok|experts_per_token|top_?k|num_selected_experts).*", 2),
    (r".*experts.*", 4),
    (r".*(layers|n_layer|num_blocks|num_stacks|depths?|inner_group_num)", 2),
    (r".*(intermediate|ffn|feed_forward|inner|mlp).*(size|dim|channels)|d_ff|n_inner", 48),
    (r".*(lora_rank|_rank)", 8),
    (r".*window_size", 2),
    (r".*patch_size.*|.*patch_height|.*patch_width", 8),
    (IMAGES, 32),
    (r".*(max_position|n_positions|max_seq|n_ctx|max_source|max_target|seq_len|context_length|max_length).*", POSITIONS),
    (WIDTHS, 32),
    (r".*(num_queries|num_latents|num_query|query_num|num_query_tokens)", 6),
)
"""By a field's name, the first that fits: at most so much; 0 leaves it as it is."""
CHANGED: tuple[Mapping[str, int], ...] = ({}, {HEADS: 0}, {KEYS: 4}, {IMAGES: 64})
"""Other sizes, to be tried in turn."""
TOKENS = re.compile(r".*token_(id|index)$|.*_token$|.*_id$")


def small(name: str, value: int, changed: Mapping[str, int]) -> int:
    """A whole number of a configuration, made small if its name says that it is a size."""
    if TOKENS.fullmatch(name):
        return value if value < VOCABULARY else VOCABULARY - 1
    most = next((changed.get(pattern, size) for pattern, size in SIZES if re.fullmatch(pattern, name)), 0)
    if name.endswith(("heads", "n_head")):  # three heads divide no width
        most = 2 if 2 <= value < most else most
    return min(value, most) if most else value


def shrunk(config: Any, changed: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a configuration that become smaller, with theirs for those inside it."""
    fields: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, PreTrainedConfig):
            fields[name] = shrunk(value, changed)
        elif isinstance(value, int):
            fields[name] = small(name, value, changed)
        elif isinstance(value, list | tuple) and value and all(type(x) is int for x in value):
            fields[name] = type(value)(small(name, x, changed) for x in value)
    return {name: value for name, value in fields.items() if value != getattr(config, name)}


def put(config: Any, fields: Mapping[str, Any]) -> None:
    """Sets fields where they stand."""
    for name, value in fields.items():
        if isinstance(value, dict):
            put(getattr(config, name), value)
        else:
            setattr(config, name, value)


def builds(config_class: type, model_class: type) -> Iterable[nn.Module]:
    """Tiny models of a type, in some ways of making its configuration: not each gives sizes that fit together."""
    for changed, by_constructor in product(CHANGED, (True, False)):
        try:
            config: Any = config_class()
            fields = shrunk(config, changed)
            if by_constructor:
                config = config_class(**fields)
            else:
                put(config, fields)
            torch.manual_seed(0)
            model: nn.Module = model_class(config)
        except Exception:  # noqa: S112  whatever another library raises where sizes do not fit
            continue
        if sum(p.numel() for p in model.parameters()) <= LARGEST:
            yield model.float().train()


def inputs_of(model: nn.Module) -> dict[str, Tensor]:
    """What its forward needs, by the names of its arguments."""
    config: Any = model.config
    names = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> Tensor:
        return torch.randint(4, 90, (2, length), generator=generator)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found: dict[str, Tensor] = {}
    if "input_ids" in names:
        found["input_ids"] = tokens(12)
        found |= {"attention_mask": torch.ones(2, 12, dtype=torch.long)} if "attention_mask" in names else {}
    if "decoder_input_ids" in names and config.is_encoder_decoder:
        found["decoder_input_ids"] = tokens(8)
    both = "vision_config" in vars(config) and "text_config" in vars(config)
    if "pixel_values" in names and ("input_ids" not in names or (both and "clip" in config.model_type)):
        side, channels = first_of(config, ("image_size", "input_size"), 32), first_of(config, ("num_channels", "in_channels"), 3)
        found["pixel_values"] = noise(2, channels, side, side)
    if "input_features" in names and "input_ids" not in names:
        found["input_features"] = noise(2, first_of(config, ("num_mel_bins", "feature_size", "input_dim"), 80), 2 * POSITIONS)
    if "input_values" in names and "input_ids" not in names:
        found["input_values"] = noise(2, 3200)
    return found


def first_of(config: Any, names: Iterable[str], default: int) -> int:
    """The first of these fields that a configuration has, or its vision part."""
    for part in (config, getattr(config, "vision_config", None)):
        for name in names:
            value = getattr(part, name, None)
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, int):
                return value
    return default


def loss_of(output: Any) -> Tensor:
    """The mean square distance from fixed noise of each tensor that a model puts out and that depends on its weights, summed.

    Raises:
        ValueError: nothing does.
    """
    found = [t.float() for t in tensors(output) if t.is_floating_point() and t.requires_grad and t.numel()]
    noise = torch.Generator().manual_seed(0)
    terms = [(t - torch.randn(t.shape, generator=noise)).square().mean() for t in found]
    if not terms:
        raise ValueError("nothing that the model puts out depends on its weights")
    return torch.stack(terms).sum()


def tensors(output: Any) -> Iterable[Tensor]:
    """Those of an output, through tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for entry in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(entry)
