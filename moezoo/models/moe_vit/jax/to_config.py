"""Our configuration as the reference's, complete: nothing is left to a default."""

from __future__ import annotations

import logging
from typing import Any

from moezoo.errors import ConfigError
from moezoo.models.moe_vit.config import MoEViTConfig
from moezoo.models.moe_vit.jax.from_config import CLASSIFIERS, EXPERT_CHOICE, SOFT, TOP_K
from moezoo.models.soft_moe.config import SoftMoEConfig
from moezoo.models.vmoe.config import VMoEConfig

log = logging.getLogger(__name__)
WORDS = {ours: theirs for theirs, ours in CLASSIFIERS.items()}
SOFT_ROUTER = f"vmoe.projects.soft_moe.router.{SOFT}"
"""In full: the reference looks for short names in another module."""


def reference_config(config: MoEViTConfig) -> dict[str, Any]:
    """What google-research/vmoe builds the same model from. What it cannot say, and can be said anew, is logged.

    Raises:
        ConfigError: It cannot say something that the model computes by.
    """
    if config.dense and config.placement:
        raise ConfigError("dense=True is not allowed: in the reference all MLPs of a model are equally wide.")
    if config.drop_path_rate:
        log.warning("drop_path_rate=%s: the reference has no stochastic depth", config.drop_path_rate)
    encoder: dict[str, Any] = {
        "num_layers": config.num_layers,
        "mlp_dim": config.mlp_dim,
        "num_heads": config.num_heads,
        "dropout_rate": config.dropout,
        "attention_dropout_rate": config.attention_dropout,
        "attention_qk_norm": config.qk_norm,
        "position_emb": {"name": config.position},
        "moe": {"layers": list(config.placement)},
    }
    if config.position == "sincos2d":
        encoder["position_emb"]["temperature"] = config.position_temperature
    if config.placement:
        encoder["moe"] |= {
            "num_experts": config.num_experts,
            "group_size": config.tokens_per_group,  # type: ignore[attr-defined]
            **({} if config.expert_dim is None else {"mlp_dim": config.expert_dim}),
            **({} if config.expert_dropout is None else {"dropout_rate": config.expert_dropout}),
            "split_rngs": False,
            "router": _soft(config) if isinstance(config, SoftMoEConfig) else _sparse(config),  # type: ignore[arg-type]
        }
    return {
        "num_classes": config.num_classes or None,
        "patch_size": list(config.patch),
        "hidden_size": config.hidden_size,
        "classifier": WORDS[config.classifier],
        "representation_size": config.representation_size,
        "encoder": encoder,
    }


def _sparse(config: VMoEConfig) -> dict[str, Any]:
    dispatcher: dict[str, Any] = {"name": "einsum", "bfloat16": config.dispatch_dtype is not None, **_room(config)}
    if config.router == "expert_choice":
        return {"name": EXPERT_CHOICE, "noise_std": config.noise_std, "dispatcher": dispatcher}
    return {
        "name": TOP_K,
        "num_selected_experts": config.top_k,
        "noise_std": config.noise_std,
        "importance_loss_weight": config.importance_weight,
        "load_loss_weight": config.load_weight,
        "gshard_loss_weight": config.load_balance_weight,
        "dispatcher": {**dispatcher, "batch_priority": config.batch_priority},
    }


def _room(config: VMoEConfig) -> dict[str, Any]:
    if config.capacity is not None:
        return {"capacity": config.capacity}
    if config.capacity_factor is None:  # room for every token
        return {"capacity": config.tokens_per_group}
    if config.eval_capacity_factor not in (None, config.capacity_factor):
        log.warning(
            "eval_capacity_factor=%s: the reference's configuration has one capacity_factor, that of training: %s",
            config.eval_capacity_factor,
            config.capacity_factor,
        )
    return {
        "capacity_factor": config.capacity_factor,
        "capacity_ceil_or_round": config.capacity_rounding,
        "capacity_multiple_of": config.capacity_multiple_of,
    }


def _soft(config: SoftMoEConfig) -> dict[str, Any]:
    if config.dispatch_dtype is None:
        log.warning("dispatch_dtype=None: the reference's soft router always rounds to bfloat16")
    return {
        "name": SOFT_ROUTER,
        "num_slots": config.num_slots,
        "capacity_factor": config.capacity_factor,
        "noise_std": config.router_noise,
    }
