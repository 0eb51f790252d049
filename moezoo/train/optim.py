"""AdamW in groups: which parameters decay, and at which rate each part of the model learns."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from moezoo.altered.weights import int8_weights
from moezoo.backbones.params import split_parameters
from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only.

    What timm models list in ``no_weight_decay()`` (position embeddings, class tokens), biases and norms have
    none. Nor have the stacked biases and norms of experts, (E, width), although they have two dimensions.

    Raises:
        ConfigError: Nothing is trainable.
    """
    exempt = set(listed()) if callable(listed := getattr(model, "no_weight_decay", None)) else set()
    rates, scales = _rates(model, config), _scales(model, config)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            leaf = name.rpartition(".")[2]
            plain = parameter.dim() < 2 or name in exempt or leaf.startswith(("b_", "bias", "norm"))
            lr = rates[id(parameter)] * scales.get(id(parameter), 1.0)
            decay = 0.0 if plain else config.weight_decay
            # The peak is kept in the group, for the schedule to scale.
            group = groups.setdefault((plain, lr), {"params": [], "lr": lr, "peak_lr": lr, "weight_decay": decay})
            group["params"].append(parameter)
    if not groups and int8_weights(model):
        raise ConfigError(
            "the model is quantised to int8, and nothing of it learns: train it before, or make it float again by "
            "moezoo.compress.dequantize."
        )
    if not groups:
        raise ConfigError(
            "no parameter of the model is trainable: it has neither an MoE nor a head that freeze_backbone would leave "
            "trainable, or all of them were frozen before."
        )
    return torch.optim.AdamW([groups[key] for key in sorted(groups)], lr=config.lr, betas=(0.9, 0.99))


def _rates(model: nn.Module, config: TrainingConfig) -> dict[int, float]:
    """The peak rate of each parameter by its id, without layer-wise decay."""
    given = {"backbone": config.lr_backbone, "moe": config.lr_moe, "head": config.lr_head}
    rates = {role: config.lr if lr is None else lr for role, lr in given.items()}
    return {id(p): rates[role] for role, parameters in split_parameters(model).items() for p in parameters}


def _scales(model: nn.Module, config: TrainingConfig) -> dict[int, float]:
    """timm's factor of each parameter by its id: the head 1, then ``layer_decay`` for each block before it."""
    if config.layer_decay is None:
        return {}
    groups = param_groups_layer_decay(model, layer_decay=config.layer_decay)
    if all(group["lr_scale"] == 1.0 for group in groups) and config.layer_decay < 1:
        raise ConfigError(
            f"layer_decay={config.layer_decay} has no effect: {type(model).__name__} does not say which block a "
            "parameter belongs to (group_matcher), as timm's models do."
        )
    return {id(p): group["lr_scale"] for group in groups for p in group["params"]}
