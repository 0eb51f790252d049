"""Every built-in router with the arguments the shared tests build it with, and what each may claim."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moezoo.moe import MoELayer

CASES: dict[str, dict[str, Any]] = {
    "attentive": {"key_dim": 3},
    "bpr_topk": {},
    "complexity": {},
    "complexity_in_order": {"ranked": False},
    "cosine": {"projection_dim": 3},
    "dense_softmax": {"temperature": 0.7},
    "expert_choice": {},
    "fixed_cells": {"cells": [0], "fraction": 0.5},
    "group_limited": {"num_groups": 2},
    "hash": {},
    "hash_types": {"key": "token_type"},
    "hierarchical": {"num_groups": 2, "num_heads": 2, "dropout": 0.0},
    "mlp_gate": {"num_heads": 2, "dropout": 0.0},
    "mlp_gate_skipping": {"eval_top_k": 2, "threshold": 0.3, "gate_layers": 1},
    "modality": {},
    "multihead": {"num_heads": 3},
    "noisy_topk": {},
    "per_image": {},
    "random": {},
    "random_fraction": {"fraction": 0.5},
    "relu": {},
    "score_threshold": {"own_score": True},
    "shazeer_topk": {},
    "sigmoid_bias": {"route_scale": 1.5},
    "soft": {"num_slots": 2},
    "softmax_topk": {},
    "sphero": {"num_slots": 2, "noise_std": 0.0},
    "threshold": {},
    "top_p": {"p": 0.5},
}
NAMES = sorted(CASES)
SPLIT = {"fixed_cells", "random_fraction", "score_threshold"}
"""Between two experts, always; a token has one of them."""
FIXED = {"fixed_cells", "hash", "hash_types", "modality", "random", "random_fraction"}
"""Without parameters."""
BY_POSITION = {"fixed_cells", "hash", "random", "random_fraction"}
"""A token's experts go by its place, so that moving it moves them."""
DYNAMIC = {"complexity", "complexity_in_order", "mlp_gate_skipping", "relu", "threshold", "top_p"}
"""The number of a token's experts varies."""
MIXING = {"soft", "sphero"}
"""Experts compute mixtures of a sample's tokens, not tokens; all of them, without a capacity."""
NO_DENSE_LIMIT = {"complexity", "complexity_in_order", "mlp_gate_skipping", "relu", "threshold"} | MIXING | SPLIT
"""With K = E they are no mixture weighted by ``probs``, or K is never E."""
BY_SAMPLE = {"expert_choice", "per_image"} | MIXING
"""A token's result depends on the others of its sample."""


SCORED = {"top_fraction"}
"""They have no choice of their own, but need a score of every token with each call."""
VARIANTS = {"complexity_in_order": "complexity", "hash_types": "hash", "mlp_gate_skipping": "mlp_gate"}
"""Cases that are a registered router with other arguments."""


def registered(name: str) -> str:
    return VARIANTS.get(name, name)


def fitting(name: str, num_experts: int, top_k: int, own: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """Experts, ``top_k`` and the router's arguments, ``own`` among them, as a router of this kind takes them."""
    if name in SPLIT:
        num_experts, top_k = 2, 1
    router_args = {**CASES[name], **own}
    if name == "group_limited" and (num_experts % 2 or top_k > num_experts // 2):
        router_args["num_groups"] = 1
    if name in ("dense_softmax", "hierarchical", "mlp_gate", "mlp_gate_skipping"):
        top_k = num_experts
    if name == "mlp_gate_skipping":
        router_args["eval_top_k"] = min(2, num_experts)
    if name == "hierarchical" and num_experts % 2:
        router_args["num_groups"] = 1
    if registered(name) == "complexity":
        top_k = min(top_k, max(num_experts - 1, 1))
    if name in MIXING:
        top_k = 1
    if name == "modality" and num_experts % top_k:
        router_args.setdefault("experts_of_type", [tuple(range(top_k)), num_experts - 1])
    return num_experts, top_k, router_args


def build(name: str, dim: int = 4, num_experts: int = 4, top_k: int = 2, **args: Any) -> MoELayer:
    """A layer in float64 with spread weights: routers start near zero, where mistakes hide."""
    if name in MIXING:
        args.pop("capacity_factor", None)
    num_experts, top_k, router_args = fitting(name, num_experts, top_k, args.pop("router_args", {}))
    layer = MoELayer(
        dim,
        num_experts=num_experts,
        top_k=top_k,
        router=registered(name),
        router_args=router_args,
        hidden_dim=5,
        **args,
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    return layer.double()


def types_for(name: str, layer: MoELayer, shape: tuple[int, ...]) -> Tensor | None:
    """Token types where the router goes by them."""
    if name not in ("modality", "hash_types"):
        return None
    return torch.randint(getattr(layer.router, "num_types", 7), shape)


def route(layer: MoELayer, x: Tensor, token_type: Tensor | None = None):
    """The routing of one call of the layer."""
    seen = []
    handle = layer.router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    layer(x, token_type=token_type)
    handle.remove()
    return seen[0]


def choices(routing) -> list[dict[int, float]]:
    """Per token its computed experts and their weights."""
    tokens: list[dict[int, float]] = [{} for _ in range(routing.num_tokens)]
    for t, e, w, dropped in zip(
        routing.token_index.tolist(),
        routing.expert_index.tolist(),
        routing.weight.tolist(),
        routing.dropped.tolist(),
        strict=True,
    ):
        if not dropped:
            assert e not in tokens[t]
            tokens[t][e] = w
    return tokens
