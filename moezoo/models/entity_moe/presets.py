"""Registered names of the EntityMoE family. No torch here."""

from __future__ import annotations

from moezoo.models.entity_moe.config import EntityMoEConfig
from moezoo.registry import OpenArchs, register_model, register_open_archs

SHORT_NAMES = {
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "base")},
}
DENSE = {"dense": {"dense": True}}
PLAIN = {
    "last": {"inject_layers": "last"},
    "last_half": {"inject_layers": "last_half"},
    "all": {"inject_layers": "all"},
}
STAGED = {
    "last_stage": {"inject_layers": "last_stage"},
    "last": {"inject_layers": "last"},
    "all": {"inject_layers": "all"},
}
RESNET = {
    "layer4": {"inject_layers": "layer4"},
    "layer3": {"inject_layers": "layer3"},
    "last": {"inject_layers": "last"},
    "all": {"inject_layers": "all"},
}


def timm_config(arch: str) -> EntityMoEConfig:
    """The configuration of ``entity_moe/<any timm architecture>``; where to inject is read off the backbone."""
    return EntityMoEConfig(model_name=SHORT_NAMES.get(arch, arch))


def _is_timm_arch(arch: str) -> bool:
    from moezoo.backbones.timm_models import is_architecture

    return is_architecture(SHORT_NAMES.get(arch, arch))


def _timm_archs() -> list[str]:
    from moezoo.backbones.timm_models import architectures

    return [*SHORT_NAMES, *architectures()]


register_open_archs(
    "entity_moe", OpenArchs(timm_config, _is_timm_arch, _timm_archs, {**PLAIN, **STAGED, **RESNET, **DENSE})
)


@register_model(variants={**PLAIN, **DENSE}, weights="backbone")
def entity_moe_vit_tiny() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["vit_tiny"], inject_layers="last")


@register_model(variants={**PLAIN, **DENSE}, weights="backbone")
def entity_moe_vit_small() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["vit_small"], inject_layers="last")


@register_model(variants={**PLAIN, **DENSE}, weights="backbone")
def entity_moe_vit_base() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["vit_base"], inject_layers="last")


@register_model(variants={**PLAIN, **DENSE}, weights="backbone")
def entity_moe_vit_large() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["vit_large"], inject_layers="last")


@register_model(variants={**STAGED, **DENSE}, weights="backbone")
def entity_moe_swin_tiny() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["swin_tiny"], inject_layers="last_stage")


@register_model(variants={**STAGED, **DENSE}, weights="backbone")
def entity_moe_swin_base() -> EntityMoEConfig:
    return EntityMoEConfig(model_name=SHORT_NAMES["swin_base"], inject_layers="last_stage")


@register_model(variants={**RESNET, **DENSE}, weights="backbone")
def entity_moe_resnet50() -> EntityMoEConfig:
    return EntityMoEConfig(model_name="resnet50", inject_layers="layer4")


@register_model(variants={**RESNET, **DENSE}, weights="backbone")
def entity_moe_resnet101() -> EntityMoEConfig:
    return EntityMoEConfig(model_name="resnet101", inject_layers="layer4")


@register_model(variants=DENSE)
def entity_moe_digits() -> EntityMoEConfig:
    """Scikit-learn's digits. Trains in about a minute on two cores: ``moezoo train entity_moe/digits``."""
    return EntityMoEConfig(
        model_name="moezoo_vit_digits",
        num_classes=10,
        in_chans=1,
        inject_layers="last_half",
        num_experts=4,
        num_experts_shared=1,
        expert_k=1,
        mlp_ratio=2.0,
        num_heads=4,
    )
