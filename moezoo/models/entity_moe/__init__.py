"""EntityMoE: object-level mixture-of-experts adapters in pretrained backbones.

The functions with the documented signatures (``create_vit_entity_moe``, ``vit_base_entity_moe``, …) are here too; they
are short spellings of ``moezoo.create_model("entity_moe/…")``.
"""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "EntityMoEConfig": ".config",
    "EntityAdapter": ".adapter",
    "build": ".model",
    **dict.fromkeys(
        [
            "create_vit_entity_moe",
            "create_swin_entity_moe",
            "create_resnet_entity_moe",
            "create_sam_entity_moe",
            "sam_vit_base_entity_moe",
            "sam_vit_large_entity_moe",
            "sam_vit_huge_entity_moe",
            "vit_base_entity_moe",
            "vit_large_entity_moe",
            "swin_tiny_entity_moe",
            "swin_base_entity_moe",
            "resnet50_entity_moe",
            "resnet101_entity_moe",
            "print_model_info",
        ],
        ".functions",
    ),
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
