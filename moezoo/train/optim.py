"""AdamW with a warm-up and a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from moezoo.train.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only.

    What timm models list in ``no_weight_decay()`` (position embeddings, class tokens), biases and norms have
    none. The stacked biases of experts, (E, width), are biases although they have two dimensions.
    """
    exempt = set(listed()) if callable(listed := getattr(model, "no_weight_decay", None)) else set()
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = parameter.dim() < 2 or name in exempt or name.rpartition(".")[2].startswith(("b_", "bias"))
            (plain if bias else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.99))


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps_per_epoch: int) -> LambdaLR:
    """Linear warm-up from zero, then a cosine to ``min_lr``; to be stepped after every optimiser step."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = config.epochs * steps_per_epoch
    floor = config.min_lr / config.lr

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(total - 1 - warmup, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return LambdaLR(optimizer, factor)
