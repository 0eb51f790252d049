"""What a backbone's feature maps are, measured on fake tensors: some of timm's statements about them do not hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from moezoo.backbones.caches import without_leftovers
from moezoo.backbones.tokens.own import drop_routing
from moezoo.backbones.trace import fake_copy, model_input_size
from moezoo.errors import ConfigError


def measured_info(model: nn.Module, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """timm's ``feature_info`` entries with the channels, reductions and module paths that the model really has.

    Args:
        model: A timm model, whole; it is not run, a fake copy is.
        entries: What the model states.

    Raises:
        ConfigError: The model gives no map for each entry.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake, (channels, height, width) = fake_copy(model, mode), model_input_size(model, None)
    for module in fake.modules():  # adapters and checks among them: none changes a shape, nor does routing
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    drop_routing(fake)
    like = next((p for p in fake.parameters() if p.is_floating_point()), torch.zeros(()))
    with without_leftovers(fake), mode, torch.no_grad():
        images = torch.zeros(2, channels, height, width, dtype=like.dtype, device=like.device)
        try:
            maps, layout = _maps(fake, images, len(entries))
        except Exception as error:  # whatever the model raises
            raise ConfigError(
                f"features_only=True is not possible: {type(model).__name__} gives no intermediate features of its "
                f"images of {channels} x {height} x {width}: {type(error).__name__}: {error!s:.200}"
            ) from error
        if len(maps) != len(entries):
            raise ConfigError(
                f"features_only=True is not possible: {type(model).__name__} states {len(entries)} features and gives "
                f"{len(maps)}."
            )
        paths = dict(fake.named_modules())
        return [
            {
                **entry,
                "num_chs": feature.shape[1],
                "reduction": _reduction(entry["reduction"], (height, width), feature),
                "module": entry["module"]
                if entry.get("module") and entry["module"] in paths
                else _last_module(fake, images, i, layout),
            }
            for i, (entry, feature) in enumerate(zip(entries, maps, strict=True))
        ]


def intermediates(
    model: Any, images: Tensor, indices: Sequence[int], output_fmt: str = "NCHW", stop_early: bool = False
) -> list[Tensor]:
    """The (B, C, H, W) maps of a timm model at ``indices``, without the final norm."""
    return model.forward_intermediates(
        images,
        indices=list(indices),
        norm=False,
        stop_early=stop_early,
        output_fmt=output_fmt,
        intermediates_only=True,
    )


def _maps(fake: nn.Module, images: Tensor, count: int) -> tuple[list[Tensor], str]:
    """Maps at all indices, and the format to ask for."""
    try:
        return intermediates(fake, images, range(count)), "NCHW"
    except DataDependentOutputException:  # Gemma 4 reads the grid of its maps off the values of tensors
        height, width = images.shape[2:]
        tokens = intermediates(fake, images, range(count), "NLC")
        rows = [math.isqrt(t.shape[1] * height // width) for t in tokens]
        return [t.mT.unflatten(2, (r, -1)) for t, r in zip(tokens, rows, strict=True)], "NLC"


def _reduction(stated: float, sides: tuple[int, int], feature: Tensor) -> float:
    """``stated``, unless the map's size says another power of two; padding or its lack is no other."""
    measured = max(sides) / max(feature.shape[2:])
    return stated if stated and abs(math.log2(measured / stated)) < 0.5 else round(measured)


def _last_module(fake: nn.Module, images: Tensor, index: int, output_fmt: str) -> str:
    """Path of the module that ends last when only the map at ``index`` is asked for."""
    ended: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ended.append(name)) for name, module in fake.named_modules()
    ]
    intermediates(fake, images, [index], output_fmt, stop_early=True)
    for handle in handles:
        handle.remove()
    return ended[-1] if ended else ""
