"""Sizes of a model made small by their names, and a loss that any output has."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Ways = Callable[[], Iterator[tuple[nn.Module, dict[str, Tensor]]]]
"""Makes models of a type with inputs for their forwards, in some ways: not each gives sizes that fit together."""
VOCABULARY, POSITIONS, LARGEST = 120, 64, 8_000_000
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
TOKENS = re.compile(r".*token_(id|index)$|.*_token$|.*_id$")


def small(name: str, value: int, changed: Mapping[str, int]) -> int:
    """A whole number of a configuration, made small if its name says that it is a size."""
    if TOKENS.fullmatch(name):
        return value if value < VOCABULARY else VOCABULARY - 1
    most = next((changed.get(pattern, size) for pattern, size in SIZES if re.fullmatch(pattern, name)), 0)
    if name.endswith(("heads", "n_head")):  # three heads divide no width
        most = 2 if 2 <= value < most else most
    return min(value, most) if most else value


def shrunk(fields: Mapping[str, Any], changed: Mapping[str, int]) -> dict[str, Any]:
    """Those of some fields that become smaller."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, int):
            found[name] = small(name, value, changed)
        elif isinstance(value, list | tuple) and value and all(type(x) is int for x in value):
            found[name] = type(value)(small(name, x, changed) for x in value)
    return {name: value for name, value in found.items() if value != fields[name]}


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
