"""The MoE layer that takes an MLP's place, and whether it computes what the MLP did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moezoo.backbones.mlps import DenseMLP
from moezoo.config import STRICT
from moezoo.moe.layer import MoELayer
from moezoo.moe.types import Routing
from moezoo.moe.upcycling import ExpertInit


@dataclass(frozen=True)
class UpcycleConfig:
    """What :func:`upcycle` may be told of the MoE layers; the rest is read off the MLPs."""

    __pydantic_config__ = STRICT

    num_experts: int
    top_k: int = 1
    init: str = "copy"
    noise_std: float | None = None
    partition: str | None = None
    sampling: str | None = None
    num_core: int | None = None
    core_ratio: float | None = None
    universal_ratio: float | None = None
    router: str = "softmax_topk"
    normalize: bool | None = None
    capacity_factor: float | None = None
    capacity_rule: str = "gshard"
    eval_capacity_factor: float | None = None
    dropout: float | None = None
    """On the experts' hidden units; ``None`` keeps the MLP's own."""
    path: str = "auto"
    router_args: dict[str, Any] | None = None
    aux_weights: dict[str, float] | None = None
    layer_reduction: str = "mean"


def build_layer(
    dim: int, hidden_dim: int, dense: DenseMLP | None, options: UpcycleConfig, start: ExpertInit
) -> MoELayer:
    """The MoE layer for an MLP; its experts' weights are still random.

    Args:
        dim: Token width.
        hidden_dim: Hidden width of an expert.
        dense: What the MLP is; ``None`` for a plain one.
        options: What the user asked for.
        start: The same, as far as it concerns the experts' weights.

    Raises:
        ConfigError: What a layer refuses.
    """
    expert, expert_args = dense.expert if dense else "mlp", None
    if start.method == "recycle":
        width = dense.hidden_dim if dense else hidden_dim
        expert, expert_args = experts_of(expert, start.widths(width, options.num_experts))
    force = options.top_k == 1 and options.normalize is True  # what the layer alone refuses: see upcycle's top_k
    layer = MoELayer(
        dim,
        num_experts=options.num_experts,
        top_k=options.top_k,
        router=options.router,
        expert=expert,
        expert_args=expert_args,
        hidden_dim=hidden_dim,
        activation=dense.activation if dense else "gelu",
        normalize=None if force else options.normalize,
        capacity_factor=options.capacity_factor,
        capacity_rule=options.capacity_rule,
        eval_capacity_factor=options.eval_capacity_factor,
        path=options.path,
        dropout=options.dropout if options.dropout is not None else dense.dropout if dense else 0.0,
        router_args=options.router_args,
        aux_weights=options.aux_weights,
        layer_reduction=options.layer_reduction,
    )
    if force:
        layer.router.normalize = True
    if start.method == "partition" and options.top_k == options.num_experts:
        for parameter in layer.router.parameters():  # equal weights, so that the parts add up to the MLP
            nn.init.zeros_(parameter)
    return layer


def experts_of(kind: str, widths: Sequence[int]) -> tuple[str, dict[str, Any] | None]:
    """The kind of experts, and its arguments, for experts of these widths: stacked where they are all the same."""
    if len(set(widths)) == 1:
        return kind, None
    return "mixed", {"kinds": [kind] * len(widths), "hidden_dims": list(widths)}


def why_not_preserved(options: UpcycleConfig, start: ExpertInit) -> str:
    """Why upcycled MLPs compute something else than before, found out on a small layer; empty if they do not.

    Raises:
        ConfigError: What a layer refuses.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        layer = build_layer(8, 4, None, options, start).eval()
        return _why(layer.router(torch.randn(64, 8)).detach(), options, start)


def _why(routing: Routing, options: UpcycleConfig, start: ExpertInit) -> str:
    """The same, told by the routing of 64 tokens."""
    E, K = options.num_experts, options.top_k
    if routing.slots is not None:
        return "the experts compute mixtures of tokens"
    if options.capacity_factor is not None or bool(routing.dropped.any()):
        return "a full expert drops tokens"
    if start.method == "noise":
        return "the experts are noisy copies"
    if start.method == "recycle" and min(start.widths(1000, E)) < 1000:
        return "an expert has some of the MLP's hidden units"
    if start.method == "partition":
        if start.partition == "importance":
            return "every expert draws its own hidden units"
        if K < E:
            return f"a token uses {K} of the MLP's {E} parts"
        equal = len(routing.weight) == 64 * E and torch.allclose(routing.weight, torch.tensor(1 / E))
        return "" if equal else "the router does not weight all parts equally"
    sums = torch.zeros(64).index_add(0, routing.token_index, routing.weight.float())
    return "" if torch.allclose(sums, torch.tensor(1.0)) else "the router's weights of a token do not sum to one"
