"""Every combination of router, experts and path that a layer accepts, found by building it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from router_cases import CASES, fitting, registered
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, Routing
from moezoo.moe.dispatch import make_plan
from moezoo.moe.experts import experts as registered_experts

DIM, GRID = 4, (2, 3)
TOKENS = GRID[0] * GRID[1]
EXPERTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "conv": lambda E: {"grid": GRID},
    "glu": lambda E: {},
    "lora": lambda E: {"rank": 2},
    "mixed": lambda E: {"kinds": (["mlp", "copy", "constant", "zero", "glu", "residual_mlp"] * E)[:E]},
    "mlp": lambda E: {},
    "modules": lambda E: {"make": lambda e: nn.Sequential(nn.Linear(DIM, 3 + e), nn.Tanh(), nn.Linear(3 + e, DIM))},
    "residual_mlp": lambda E: {},
    "unequal": lambda E: {"hidden_dims": [3 + e for e in range(E)]},
}
"""The arguments of each kind for E experts."""
KIND = {"unequal": "mixed"}


def build(router: str, expert: str, path: str = "loop", num_experts: int = 4, top_k: int = 2, **args: Any) -> MoELayer:
    """A layer in float64 with spread weights, or a ``ConfigError``."""
    num_experts, top_k, router_args = fitting(router, num_experts, top_k, {})
    kind = KIND.get(expert, expert)
    own = EXPERTS[expert](num_experts)
    layer = MoELayer(
        DIM,
        num_experts=num_experts,
        top_k=top_k,
        router=registered(router),
        router_args=router_args,
        expert=kind,
        expert_args=own,
        hidden_dim=5,
        path=path,
        **args,
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    return layer.double()


def accepted(router: str, expert: str, path: str) -> bool:
    try:
        build(router, expert, path)
    except ConfigError:
        return False
    return True


def paths_of(expert: str) -> tuple[str, ...]:
    return registered_experts.get(KIND.get(expert, expert)).paths


ON_THE_REFERENCE = [pair for pair in itertools.product(CASES, EXPERTS) if accepted(*pair, "loop")]


def pairwise() -> list[tuple[str, str, str]]:
    """(router, expert, path) beside the reference, so that each router and each kind of experts meets each path."""
    cases = []
    for path in ("sorted", "batched", "packed", "grouped", "static"):
        kinds = [expert for expert in EXPERTS if path in paths_of(expert)]
        turn = itertools.cycle(kinds)
        met = set()
        for router in CASES:
            expert = next(e for e in itertools.islice(turn, len(kinds)) if (router, e) in ON_THE_REFERENCE)
            cases.append((router, expert, path))
            met.add(expert)
        for expert in set(kinds) - met:
            router = next(r for r, e in ON_THE_REFERENCE if e == expert)
            cases.append((router, expert, path))
    return cases


def expert_output(layer: MoELayer, e: int, x_TD: Tensor) -> Tensor:
    """(T, D): all tokens through one expert."""
    E, T = layer.num_experts, len(x_TD)
    chosen = torch.full((T, 1), e)
    plan = make_plan(Routing.from_choice(chosen, x_TD.new_ones(T, 1), x_TD.new_zeros(T, E)), "loop")
    return layer.experts(x_TD, plan)


def mixture(layer: MoELayer, x_TD: Tensor, routing: Routing) -> Tensor:
    """(T, D): the definition, expert by expert."""
    weight_TE = x_TD.new_zeros(len(x_TD), layer.num_experts)
    weight_TE[routing.token_index, routing.expert_index] = routing.weight * ~routing.dropped
    return sum(weight_TE[:, e, None] * expert_output(layer, e, x_TD) for e in range(layer.num_experts))  # type: ignore
