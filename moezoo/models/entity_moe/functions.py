"""The documented functions, each a short spelling of ``moezoo.create_model``.

They keep the documented default ``pretrained=True``. Other keyword arguments are configuration fields or go to
the timm model or the transformers configuration.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from moezoo.config import field_names
from moezoo.factory import create_model
from moezoo.measure.info import print_model_info
from moezoo.models.entity_moe.config import EntityMoEConfig

__all__ = [
    "create_resnet_entity_moe",
    "create_sam_entity_moe",
    "create_swin_entity_moe",
    "create_vit_entity_moe",
    "print_model_info",
    "resnet101_entity_moe",
    "resnet50_entity_moe",
    "sam_vit_base_entity_moe",
    "sam_vit_huge_entity_moe",
    "sam_vit_large_entity_moe",
    "swin_base_entity_moe",
    "swin_tiny_entity_moe",
    "vit_base_entity_moe",
    "vit_large_entity_moe",
]


_CREATE_MODEL = [p.name for p in inspect.signature(create_model).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _create(model_name: str, pretrained: bool | str, kwargs: dict[str, Any]) -> nn.Module:
    known = {*field_names(EntityMoEConfig), *_CREATE_MODEL}
    ours = {name: value for name, value in kwargs.items() if name in known}
    others = {name: value for name, value in kwargs.items() if name not in known}
    ours["backbone_args"] = {**ours.get("backbone_args", {}), **others}
    return create_model(f"entity_moe/{model_name}", pretrained, **ours)


def create_vit_entity_moe(
    model_name: str = "vit_base_patch16_224", pretrained: bool | str = True, **kwargs: Any
) -> nn.Module:
    """A ViT with adapters; ``inject_layers`` is ``'last'``, ``'all'`` or block indices."""
    return _create(model_name, pretrained, {"inject_layers": "last", **kwargs})


def create_swin_entity_moe(
    model_name: str = "swin_tiny_patch4_window7_224", pretrained: bool | str = True, **kwargs: Any
) -> nn.Module:
    """A Swin with adapters; ``inject_layers`` is ``'last_stage'``, ``'all'`` or (stage, block) pairs."""
    return _create(model_name, pretrained, {"inject_layers": "last_stage", **kwargs})


def create_resnet_entity_moe(model_name: str = "resnet50", pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    """A ResNet with adapters; ``inject_layers`` is ``'layer4'``, ``'layer3'``, ``'all'`` or (layer, block) pairs."""
    return _create(model_name, pretrained, {"inject_layers": "layer4", **kwargs})


def create_sam_entity_moe(
    model_name: str = "facebook/sam-vit-base", pretrained: bool | str = True, **kwargs: Any
) -> nn.Module:
    """A SAM with adapters in its image encoder; ``inject_layers`` is ``'last_half'``, ``'all'`` or layer indices."""
    defaults = {"inject_layers": "last_half", "num_classes": 0, "entities": "windows"}
    return _create(f"hf:{model_name}", pretrained, {**defaults, **kwargs})


def vit_base_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_vit_entity_moe("vit_base_patch16_224", pretrained, **kwargs)


def vit_large_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_vit_entity_moe("vit_large_patch16_224", pretrained, **kwargs)


def swin_tiny_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_swin_entity_moe("swin_tiny_patch4_window7_224", pretrained, **kwargs)


def swin_base_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_swin_entity_moe("swin_base_patch4_window7_224", pretrained, **kwargs)


def resnet50_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_resnet_entity_moe("resnet50", pretrained, **kwargs)


def resnet101_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_resnet_entity_moe("resnet101", pretrained, **kwargs)


def sam_vit_base_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_sam_entity_moe("facebook/sam-vit-base", pretrained, **kwargs)


def sam_vit_large_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_sam_entity_moe("facebook/sam-vit-large", pretrained, **kwargs)


def sam_vit_huge_entity_moe(pretrained: bool | str = True, **kwargs: Any) -> nn.Module:
    return create_sam_entity_moe("facebook/sam-vit-huge", pretrained, **kwargs)
