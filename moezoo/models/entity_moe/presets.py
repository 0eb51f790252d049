"""Registered names of the EntityMoE family. No torch here."""

from __future__ import annotations

from pathlib import Path

from moezoo.backbones.hf.names import KNOWN, is_hf
from moezoo.models.entity_moe.config import EntityMoEConfig
from moezoo.registry import OpenArchs, register_model, register_open_archs

SHORT_NAMES = {
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "base")},
}
DENSE = {"dense": {"dense": True}}
PACKAGED = Path(__file__).parents[2] / "weights"
"""Weights that come with the package, one folder as :func:`moezoo.save_pretrained` writes it per model."""
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


SAM = {
    "last_half": {"inject_layers": "last_half"},
    "last": {"inject_layers": "last"},
    "all": {"inject_layers": "all"},
}


def any_config(arch: str) -> EntityMoEConfig:
    """The configuration of ``entity_moe/<any timm architecture>`` or ``entity_moe/hf:user/repo``.

    Where to inject is read off the backbone; classes and channels of ``hf:`` backbones are the published ones.
    """
    if arch in KNOWN:
        return sam_config(arch)
    if is_hf(arch):
        return EntityMoEConfig(model_name=arch, num_classes=None, in_chans=None)
    return EntityMoEConfig(model_name=SHORT_NAMES.get(arch, arch))


def sam_config(name: str) -> EntityMoEConfig:
    """SAM's 64 x 64 tokens are pooled in windows, since attention among all 4,096 would cost their square."""
    return EntityMoEConfig(model_name=name, num_classes=0, inject_layers="last_half", entities="windows", window_size=4)


def _is_known(arch: str) -> bool:
    if is_hf(arch):
        return True
    from moezoo.backbones.timm_models import is_architecture

    return is_architecture(SHORT_NAMES.get(arch, arch))


def _timm_archs() -> list[str]:
    from moezoo.backbones.timm_models import architectures

    return [*SHORT_NAMES, *architectures()]


register_open_archs("entity_moe", OpenArchs(any_config, _is_known, _timm_archs, {**PLAIN, **STAGED, **RESNET, **DENSE}))


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


@register_model(variants={**SAM, **DENSE}, weights="backbone")
def entity_moe_sam_vit_base() -> EntityMoEConfig:
    return sam_config("hf:facebook/sam-vit-base")


@register_model(variants={**SAM, **DENSE}, weights="backbone")
def entity_moe_sam_vit_large() -> EntityMoEConfig:
    return sam_config("hf:facebook/sam-vit-large")


@register_model(variants={**SAM, **DENSE}, weights="backbone")
def entity_moe_sam_vit_huge() -> EntityMoEConfig:
    return sam_config("hf:facebook/sam-vit-huge")


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


@register_model(variants={**PLAIN, **DENSE}, weights={"last": f"local-dir:{PACKAGED / 'entity_moe-test_vit'}"})
def entity_moe_test_vit() -> EntityMoEConfig:
    """timm's small test ViT on scikit-learn's digits, with weights that come with the package: nothing is fetched.

    The backbone is ``test_vit`` as timm has it, so that timm's own weights of it load too (``pretrained="backbone"``),
    but for the patches: 4 x 4 pixels of a 16 x 16 image, since 16 x 16 ones would leave a digit as a single token.
    """
    return EntityMoEConfig(
        model_name="test_vit",
        backbone_args={"patch_size": 4},
        num_classes=10,
        in_chans=1,
        img_size=16,
        inject_layers="last",
        num_experts=4,
        num_experts_shared=1,
        expert_k=1,
        mlp_ratio=0.5,
        num_heads=2,
    )
