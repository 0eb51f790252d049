"""The family's MoE layer: who decides, between which two MLPs, at what price."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import big_in_dim, big_macs, small_in_dim, small_macs
from moezoo.models.attention_routing.experts import big_mlp, small_mlp
from moezoo.moe import MoELayer, Routing
from moezoo.moe.routers import Router
from moezoo.moe.routers.fixed_cells import central_cells
from moezoo.moe.routers.score_threshold import ScoreThresholdRouter


def routed_cells(config: AttentionRoutingConfig, dim: int) -> MoELayer:
    """The big MLP as expert 0 and the small one as expert 1, behind the router that ``config`` names.

    Args:
        config: The model's.
        dim: Width of the tokens that the router is shown; the MLPs have sources of their own.
    """
    router, arguments = router_of(config)
    experts = {"modules": [big_mlp(config), small_mlp(config)], "in_dims": (big_in_dim(config), small_in_dim(config))}
    return MoELayer(
        dim,
        out_dim=config.embed_dim,
        num_experts=2,
        router=router,
        router_args=arguments,
        expert="modules",
        expert_args=experts,
        **budget_of(config),
    )


def router_of(config: AttentionRoutingConfig) -> tuple[str, dict[str, Any]]:
    """A registered router's name and its arguments."""
    if config.compute == "random":
        return "random_fraction", {"fraction": config.ratio}
    if config.compute == "center":
        return "fixed_cells", {"cells": central_cells(config.grid), "fraction": config.ratio}
    return "score_threshold", {
        "mode": config.router_mode,
        "threshold_init": config.threshold_init,
        "temperature": config.temperature,
        "temperature_final": config.temperature_final,
        "fraction": config.fraction,
    }


def budget_of(config: AttentionRoutingConfig) -> dict[str, Any]:
    """The budget loss, where there is something to learn from it: a number of cells that can change."""
    if config.compute != "attention" or config.router_mode == "top_fraction" or not config.budget_weight:
        return {"aux_weights": {}}
    arguments: dict[str, Any] = {"scope": config.budget_scope, "anneal": config.budget_anneal}
    if config.budget_target is None:
        arguments["costs"] = (big_macs(config), small_macs(config))
    else:
        arguments["target"] = config.budget_target
    return {"aux_weights": {"compute_budget": config.budget_weight}, "aux_args": {"compute_budget": arguments}}


def hard_mask(routing: Routing, shape: torch.Size) -> Tensor:
    """(B, N) exactly 1 where expert 0 was chosen, else 0; with the gradient that the weights carry."""
    chosen = routing.expert_index == 0
    weight = torch.where(chosen, routing.weight, -routing.weight)
    mask = chosen.to(weight.dtype) + (weight - weight.detach())
    return mask.reshape(shape)


def threshold_in_use(router: Router) -> Tensor | None:
    """() what scores are compared with; ``None`` where a number of cells is chosen instead, or no score asked."""
    if not isinstance(router, ScoreThresholdRouter) or router.budget is not None:
        return None
    counts = router.mode == "top_fraction" and router.threshold_override is None
    return None if counts else router.threshold
