"""The base model of each model type of transformers, with a configuration that is tiny."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from lngd_bench.studies.zoo.shrinking import HEADS, IMAGES, KEYS, LARGEST, POSITIONS, Ways, shrunk

VERSION = transformers.__version__
CHANGED: tuple[Mapping[str, int], ...] = ({}, {HEADS: 0}, {KEYS: 4}, {KEYS: 4, HEADS: 0}, {IMAGES: 64})
"""Other sizes, to be tried in turn."""


def types() -> Mapping[str, Ways]:
    """By model type."""
    transformers.logging.set_verbosity_error()
    found: dict[str, Ways] = {}
    for name, model in sorted(MODEL_MAPPING_NAMES.items()):
        try:
            kinds = CONFIG_MAPPING[name], getattr(transformers, model if isinstance(model, str) else model[0])
        except (ImportError, AttributeError, KeyError):  # it needs a package that is not here
            continue
        found[name] = partial(builds, *kinds)
    return found


def builds(config_class: type, model_class: type) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Tiny models of a type, in some ways of making its configuration, with inputs."""
    both = {"input_ids", "pixel_values"} <= inspect.signature(model_class.forward).parameters.keys()  # type: ignore[attr-defined]
    for changed, by_constructor, with_images in product(CHANGED, (True, False), (False, True) if both else (False,)):
        try:
            config: Any = config_class()
            fields = smaller(config, changed)
            if by_constructor:
                config = config_class(**fields)
            else:
                put(config, fields)
            torch.manual_seed(0)
            model: nn.Module = model_class(config)
            inputs = inputs_of(model, with_images=with_images)
        except Exception:  # noqa: S112  whatever another library raises where sizes do not fit
            continue
        if sum(p.numel() for p in model.parameters()) <= LARGEST:
            yield model.float().train(), inputs


def smaller(config: Any, changed: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a configuration that become smaller, with theirs for those inside it."""
    inside = {name: value for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)}
    fields = {name: value for name, value in vars(config).items() if name not in inside}
    found = {name: below for name, value in inside.items() if not name.startswith("_") and (below := smaller(value, changed))}
    return {**shrunk(fields, changed), **found}


def put(config: Any, fields: Mapping[str, Any]) -> None:
    """Sets fields where they stand."""
    for name, value in fields.items():
        if isinstance(value, dict):
            put(getattr(config, name), value)
        else:
            setattr(config, name, value)


def inputs_of(model: nn.Module, *, with_images: bool) -> dict[str, Tensor]:
    """What its forward needs, by the names of its arguments; `with_images`: beside tokens, too."""
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
    if "bbox" in names:
        found["bbox"] = torch.zeros(2, 12, 4, dtype=torch.long)
    if "pixel_values" in names and ("input_ids" not in names or with_images):
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
