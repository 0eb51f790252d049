"""The fields of configurations that their families' cards show."""

from __future__ import annotations

import dataclasses
from typing import Any

from card_tables.text import markdown

UPCYCLED = (
    "model_name",
    "img_size",
    "moe_layers",
    "num_experts",
    "top_k",
    "router",
    "router_args",
    "normalize",
    "capacity_factor",
    "eval_capacity_factor",
    "capacity_rule",
    "expert_dropout",
    "init",
    "importance_weight",
    "load_weight",
    "load_balance_weight",
    "router_z_weight",
    "dense",
)
MOE_VIT = (
    "img_size",
    "patch_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "mlp_dim",
    "classifier",
    "representation_size",
    "position",
    "qk_norm",
    "moe_layers",
    "num_experts",
    "dispatch_dtype",
)
FIELDS = {
    "entity_moe": (
        "num_experts",
        "num_experts_shared",
        "expert_k",
        "inject_layers",
        "mlp_ratio",
        "expert_dim",
        "expert",
        "router",
        "normalize",
        "entities",
        "window_size",
        "num_slots",
        "capacity_factor",
        "load_balance_weight",
        "router_z_weight",
        "importance_weight",
        "dense",
    ),
    "diff_moe": (
        "img_size",
        "patch_size",
        "in_channels",
        "embed_dim",
        "num_general_experts",
        "num_modality_specific_experts",
        "top_k",
        "num_heads",
        "img_encoder_layers",
        "text_encoder_layers",
        "fusion",
        "fusion_layers",
        "num_classes",
        "dropout",
        "activation",
        "layer_norm_eps",
        "initializer_range",
        "use_gradient_checkpointing",
        "vocab_size",
        "max_text_len",
        "text_embed_dim",
        "router_z_loss_weight",
        "router_balance_loss_weight",
        "cross_modal_alignment_weight",
        "contrastive_loss_weight",
        "z_loss_type",
        "balance_loss_type",
        "layer_reduction",
        "temperature_init",
        "dense",
    ),
    "attention_routing": (
        "img_size",
        "patch_grid_size",
        "in_channels",
        "num_classes",
        "encoder_channels",
        "encoder_layers",
        "attention_hidden",
        "router_mode",
        "threshold_init",
        "temperature",
        "temperature_final",
        "fraction",
        "big_hidden_dim",
        "big_layers",
        "small_hidden_dim",
        "small_layers",
        "embed_dim",
        "big_input",
        "small_input",
        "crop_context",
        "aggregator",
        "aggregator_dim",
        "dropout",
        "budget_target",
        "budget_weight",
        "budget_scope",
        "budget_anneal",
        "compute",
        "dense",
    ),
    "multiscale_moe": (
        "model_name",
        "img_size",
        "num_classes",
        "modalities",
        "shared_backbone",
        "feat_dim",
        "scales",
        "window_mode",
        "window_op",
        "fusion",
        "structure",
        "hidden_dim",
        "temperature",
        "num_heads",
        "gate_layers",
        "top_k",
        "expert_threshold",
        "residual_weight",
        "final_fusion",
        "dropout",
        "balance_weight",
        "balance_target",
        "sparsity_weight",
        "diversity_weight",
        "neck_feature",
        "dense",
    ),
    "vmoe": (
        *MOE_VIT,
        "router",
        "top_k",
        "noise_std",
        "batch_priority",
        "capacity_factor",
        "eval_capacity_factor",
        "group_images",
        "importance_weight",
        "load_weight",
        "load_balance_weight",
        "dense",
    ),
    "soft_moe": (*MOE_VIT, "num_slots", "capacity_factor", "router_noise", "dense"),
    "swin_moe": UPCYCLED,
    "mobile_vmoe": UPCYCLED,
}
"""The fields on a family's card; ``moezoo info`` shows all of them."""


def config_table(family: str) -> str:
    """Fields of a family's configuration with their defaults and what they mean."""
    import moezoo

    name = moezoo.list_models(family=family)[0]
    fields = {field.name: field for field in dataclasses.fields(moezoo.model_config(name))}
    rows = [[f"`{name}`", default(fields[name]), _shown(fields[name].metadata["help"])] for name in FIELDS[family]]
    return markdown(["field", "default", "meaning"], rows)


def _shown(text: str) -> str:
    """``last<n>`` is no tag."""
    return text.replace("<", "&lt;")


def default(field: dataclasses.Field) -> str:
    value: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
