"""Images of the wrong shape get an error that names what was given, what is expected and the option for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import InputError


def expect_images(model: nn.Module) -> nn.Module:
    """Check the images of every forward of ``model``, which states their channels; returns it."""
    model.moezoo_in_chans = model.pretrained_cfg["input_size"][0]  # type: ignore[index]
    model.register_forward_pre_hook(_check_hook, with_kwargs=True)
    return model


def check_images(model: nn.Module, images: Tensor) -> None:
    """Raise :class:`InputError` unless ``images`` is a float (B, C, H, W) batch that ``model`` takes."""
    in_chans, size = model.moezoo_in_chans, fixed_size(model)
    rows, columns = size if size is not None else ("height", "width")
    expected = f"(batch, {in_chans}, {rows}, {columns})"
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise InputError(
            f"images must be a tensor of {expected}, got {tuple(getattr(images, 'shape', ())) or images!r}."
        )
    if images.dtype == torch.uint8 or not images.is_floating_point():
        raise InputError(
            f"images must be floating point, got {images.dtype}: scale and normalise them (timm.data.create_transform)."
        )
    if images.shape[1] != in_chans:
        raise InputError(
            f"images must be {expected}, got {tuple(images.shape)}: wrong number of channels; "
            f"in_chans={images.shape[1]} builds a model for these."
        )
    if size is not None and tuple(images.shape[2:]) != size:
        raise InputError(
            f"images must be {expected}, got {tuple(images.shape)}: wrong size; "
            f"img_size={tuple(images.shape[2:])} builds a model for these."
        )


def example_shape(model: nn.Module) -> tuple[int, ...]:
    """The shape of what ``model`` takes for one answer, as it states it: (C, H, W), or (M, C, H, W) of a sighting in
    several modalities."""
    size = tuple(model.pretrained_cfg["input_size"])  # type: ignore[index]
    modalities = getattr(model, "modalities", ())
    return (len(modalities), *size) if len(modalities) > 1 else size


def example_images(model: nn.Module, batch_size: int, seed: int = 0) -> Tensor:
    """Random images such as ``model`` takes: (B, C, H, W), or (B, M, C, H, W) where it takes several modalities."""
    return torch.randn(batch_size, *example_shape(model), generator=torch.Generator().manual_seed(seed))


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) where the backbone takes no other size, else ``None``."""
    embed = getattr(model, "patch_embed", None)
    strict = getattr(embed, "strict_img_size", None)
    if getattr(model, "dynamic_img_size", False) or strict is False:
        return None
    cfg = getattr(model, "pretrained_cfg", {})
    size = getattr(embed, "img_size", None) if strict else None
    if not strict and cfg.get("fixed_input_size"):
        size = cfg["input_size"][1:]
    return (int(size[0]), int(size[1])) if size is not None else None


def given_images(args: tuple, kwargs: dict[str, Any]) -> Any:
    """The images among the arguments of a model's forward; ``None`` when there are none."""
    return args[0] if args else kwargs.get(image_keyword(kwargs))


def image_keyword(kwargs: dict[str, Any]) -> str:
    """The word for images in a call: transformers' ``pixel_values``, Diff-MoE's ``images`` or timm's ``x``."""
    return next((word for word in ("pixel_values", "images") if word in kwargs), "x")


def _check_hook(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    if args or image_keyword(kwargs) in kwargs:  # else the model says what it misses
        check_images(model, given_images(args, kwargs))
