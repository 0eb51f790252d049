"""Which parameters belong to the backbone, the MoE and the head: freezing and learning rates."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.backbones.inject import adapters_of
from moezoo.moe.checks import check_positive
from moezoo.moe.experts import Experts
from moezoo.moe.layer import MoELayer


def split_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters by role: ``moe`` (adapters, MoE layers and their parts beside them), ``head`` (the classifier),
    ``backbone`` (the rest). Of a model that names its ``backbone_parts()`` those are the backbone, the rest ``moe``.

    Outside a MoE layer an expert is known by an attribute ``is_expert``, what scores tokens for it by ``is_router``.

    What experts keep frozen by their nature (:meth:`~moezoo.moe.experts.Experts.frozen_parameters`: the MLP that
    low-rank experts share) is ``backbone``.
    """
    moe = {id(p) for adapter in adapters_of(model).values() for p in adapter.parameters()}
    marks = ("is_expert", "is_router")
    parts = [m for m in model.modules() if isinstance(m, MoELayer) or any(getattr(m, mark, False) for mark in marks)]
    moe |= {id(p) for part in parts for p in part.parameters()}
    moe -= {id(p) for m in model.modules() if isinstance(m, Experts) for p in m.frozen_parameters()}
    classifier: Any = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    head = {id(p) for h in heads if isinstance(h, nn.Module) for p in h.parameters()}
    if hasattr(model, "backbone_parts"):
        kept = {id(p) for part, _ in model.backbone_parts() for p in part.parameters()}  # type: ignore[operator]
        moe |= {id(p) for p in model.parameters()} - kept - head
    roles: dict[str, list[nn.Parameter]] = {"backbone": [], "moe": [], "head": []}
    for p in model.parameters():
        roles["moe" if id(p) in moe else "head" if id(p) in head else "backbone"].append(p)
    return roles


def freeze_backbone(model: nn.Module, train_head: bool = True) -> nn.Module:
    """Leave only the MoE (and, with ``train_head``, the classifier) trainable; returns the same model."""
    for role, parameters in split_parameters(model).items():
        for p in parameters:
            p.requires_grad_(role == "moe" or (role == "head" and train_head))
    return model


def param_groups(model: nn.Module, *, lr_backbone: float, lr_moe: float, lr_head: float) -> list[dict[str, Any]]:
    """Optimiser groups with a learning rate for each role; frozen parameters and empty groups are left out."""
    rates = {"backbone": lr_backbone, "moe": lr_moe, "head": lr_head}
    for role, rate in rates.items():
        check_positive(f"lr_{role}", rate, zero=True)
    roles = split_parameters(model).items()
    groups = [{"name": role, "lr": rates[role], "params": [p for p in ps if p.requires_grad]} for role, ps in roles]
    return [g for g in groups if g["params"]]
