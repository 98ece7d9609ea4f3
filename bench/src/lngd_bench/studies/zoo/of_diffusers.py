"""The models of diffusers, with options that are tiny."""

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from lngd_bench.studies.zoo.shrinking import HEADS, Ways, shrunk

VERSION = diffusers.__version__
CHANGED: tuple[Mapping[str, int], ...] = ({}, {HEADS: 0})
"""Other sizes, to be tried in turn."""
WIDTH, TOKENS, SIDE, FRAMES = 32, 6, 16, 5
LARGEST = 40_000_000
LAYOUTS: tuple[tuple[int | None, ...], ...] = (
    *((None, SIDE, SIDE), (None, FRAMES, SIDE, SIDE), (FRAMES, None, SIDE, SIDE)),
    *((None, 4 * SIDE), (TOKENS, None)),
)
"""Of a sample: images, videos in two ways, sound, tokens; None stands for the channels."""


def types() -> Mapping[str, Ways]:
    """By class."""
    found: dict[str, Ways] = {}
    for name in sorted(dir(diffusers)):
        try:
            kind = getattr(diffusers, name)
        except (ImportError, RuntimeError):  # it needs a package that is not here
            continue
        if isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin) and kind is not diffusers.ModelMixin:
            found[name] = partial(builds, kind)
    return found


def builds(kind: type) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Tiny models of a class with inputs."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()  # type: ignore[misc]
        if parameter.default is not inspect.Parameter.empty
    }
    for changed, layout in product(CHANGED, LAYOUTS):
        try:
            torch.manual_seed(0)
            fields = shrunk(defaults, {r".*cross_attention_dim|caption_channels|.*text.*dim": WIDTH, **changed})
            model: nn.Module = kind(**fields)
            inputs = inputs_of(model, layout)
        except Exception:  # noqa: S112  whatever another library raises where sizes do not fit
            continue
        if sum(p.numel() for p in model.parameters()) <= LARGEST:
            yield model.float().train(), inputs


def inputs_of(model: Any, layout: tuple[int | None, ...]) -> dict[str, Any]:
    """What its forward needs, by the names of its arguments."""
    generator = torch.Generator().manual_seed(0)

    def noise(*sizes: int) -> Tensor:
        return torch.randn(2, *sizes, generator=generator)

    config = model.config
    channels = config.get("in_channels", 3)
    tokens = next(
        (
            config[name]
            for name in ("joint_attention_dim", "cross_attention_dim", "caption_channels", "text_dim")
            if isinstance(config.get(name), int)
        ),
        WIDTH,
    )
    image = noise(*(channels if size is None else size for size in layout))
    pooled = config.get("pooled_projection_dim") or config.get("caption_projection_dim") or WIDTH
    known: dict[str, Any] = {
        **dict.fromkeys(("sample", "hidden_states", "x"), image),
        **dict.fromkeys(("timestep", "timesteps"), torch.tensor([3, 7])),
        **dict.fromkeys(("encoder_hidden_states", "encoder_hidden_states_t5"), noise(TOKENS, tokens)),
        **dict.fromkeys(("pooled_projections", "pooled_projection"), noise(pooled)),
        **dict.fromkeys(("encoder_attention_mask", "encoder_hidden_states_mask"), torch.ones(2, TOKENS)),
        **dict.fromkeys(("txt_ids", "img_ids"), torch.zeros(TOKENS, 3)),
        "class_labels": torch.tensor([1, 2]),
        "controlnet_cond": noise(3, 8 * SIDE, 8 * SIDE),
        "proj_embedding": noise(WIDTH),
        "added_time_ids": torch.ones(2, 3),
        "guidance": torch.ones(2) if config.get("guidance_embeds") or config.get("guidance_embed") else None,
        "width": SIDE,
        "height": SIDE,
        "num_frames": FRAMES,
    }
    wanted = inspect.signature(model.forward).parameters
    return {name: value for name, value in known.items() if name in wanted and value is not None}
