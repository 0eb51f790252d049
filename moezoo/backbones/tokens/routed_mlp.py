"""A block's own MLP as the big of two experts, and the small one that is added beside it.

The MLP stays the module it was, under its name, with its keys. It gets a child that routes, and its forward asks that
child, which sends as many tokens as are worth it back to the MLP's own formula.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.backbones.inject import MARK
from moezoo.backbones.mlps import DenseMLP
from moezoo.backbones.site import Site
from moezoo.backbones.tokens.config import TokenRoutingConfig
from moezoo.backbones.tokens.own import CHILD, OwnModule
from moezoo.backbones.tokens.scores import AttentionScores
from moezoo.backbones.tokens.small_mlp import narrow_copy, narrow_state
from moezoo.moe.layer import MoELayer


class OwnMLP(OwnModule):
    """An MLP by its own formula, as an expert.

    Args:
        mlp: The MLP.
        row_flops: What it costs per token.
    """

    def __init__(self, mlp: nn.Module, row_flops: int):
        super().__init__(mlp)
        self.row_flops = row_flops


class TokenRouting(nn.Module):
    """The child of an MLP that decides which tokens are worth it; the others get a small MLP made from it.

    Args:
        mlp: The MLP, which is not changed.
        dense: What it is.
        config: How tokens are routed.
        scores: Where they are judged; ``None``: here, by a learned score or by lots.
        site: How the tokens lie; ``None`` when they do not lie on a grid.
    """

    def __init__(
        self,
        mlp: nn.Module,
        dense: DenseMLP,
        config: TokenRoutingConfig,
        scores: AttentionScores | None,
        site: Site | None,
    ):
        super().__init__()
        self.dense = dense
        self.site = site
        self.scores = scores
        self.rule = config.small_init
        self.hidden_dim = max(1, round(dense.hidden_dim * config.small_ratio))
        small = narrow_copy(mlp, dense, self.hidden_dim)
        self.own_keys = tuple(mlp.state_dict())
        self.moe = MoELayer(
            dense.dim,
            num_experts=2,
            expert="modules",
            expert_args={"modules": [OwnMLP(mlp, row_flops(dense)), small]},
            **_routing_args(config, own_score=scores is None),
        )
        router: Any = self.moe.router
        router.budget = None if config.threshold is not None else config.budget
        if config.score != "random":
            router.threshold_override = config.threshold
        self.start_small(mlp.state_dict())

    @property
    def small(self) -> nn.Module:
        """The small MLP."""
        return self.moe.experts.members[1]  # type: ignore[index,return-value]

    def start_small(self, state: dict[str, Tensor]) -> None:
        """Make the small MLP from the big one's weights, under the big one's keys."""
        kept = narrow_state({key: state[key] for key in self.own_keys}, self.dense, self.hidden_dim, self.rule)
        self.small.load_state_dict(kept)

    def forward(self, x: Tensor, scores: Tensor | None = None) -> Tensor:
        return self.moe(x, scores=scores)

    def token_geometry(self, shape: Sequence[int]) -> tuple[tuple[int, int] | None, int]:
        """Grid and prefix tokens of an input of ``shape``, for recording."""
        grid = self.site.grid_of(shape) if self.site is not None else None
        return (grid, self.site.prefix_tokens) if self.site is not None and grid is not None else (None, 0)

    def extra_repr(self) -> str:
        return f"attention={self.scores is not None}, small={self.hidden_dim}"


def _routing_args(config: TokenRoutingConfig, own_score: bool) -> dict[str, Any]:
    """What a layer is told of its router and the loss that asks it to save."""
    if config.score == "random":
        return {"router": "random_fraction", "router_args": {"fraction": config.fraction}, "aux_weights": {}}
    args = {
        "mode": config.router_mode,
        "threshold_init": config.threshold_init,
        "temperature": config.temperature,
        "temperature_final": config.temperature_final,
        "fraction": config.fraction,
        "own_score": own_score,
    }
    budget = {"target": config.budget_target, "scope": config.budget_scope, "anneal": config.budget_anneal}
    on = config.budget_weight > 0
    return {
        "router": "score_threshold",
        "router_args": args,
        "aux_weights": {"compute_budget": config.budget_weight} if on else {},
        "aux_args": {"compute_budget": budget} if on else {},
    }


def row_flops(dense: DenseMLP) -> int:
    """FLOPs of such an MLP per token."""
    return 2 * dense.dim * dense.hidden_dim * (3 if dense.expert == "glu" else 2)


def attach_routing(mlp: nn.Module, routing: TokenRouting) -> None:
    """Let ``mlp`` route its tokens, and load checkpoints that know nothing of it."""
    mlp.add_module(CHILD, routing)
    setattr(mlp, MARK, CHILD)
    mlp.forward = functools.partial(routed_forward, mlp)
    mlp.register_load_state_dict_pre_hook(start_from_dense)


def routed_forward(mlp: Any, x: Tensor) -> Tensor:
    """What takes the place of the MLP's ``forward``. Importable, so that models pickle."""
    routing: TokenRouting = getattr(mlp, CHILD)
    return routing(x, None if routing.scores is None else routing.scores.take())


def start_from_dense(mlp: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The load hook: where a checkpoint holds the MLP alone the small one is made from it, and the router stays."""
    routing: Any = getattr(mlp, CHILD)
    added = f"{prefix}{CHILD}."
    if any(key.startswith(added) for key in state):
        return
    own = {key: state.get(prefix + key) for key in routing.own_keys}
    live = mlp.state_dict()
    if any(value is None or value.shape != live[key].shape for key, value in own.items()):
        return  # loading says what does not fit
    small = narrow_state(own, routing.dense, routing.hidden_dim, routing.rule)  # type: ignore[arg-type]
    names = {name: f"moe.experts.members.1.{name}" for name in small}
    state.update({added + names[name]: tensor for name, tensor in small.items()})
    for name, tensor in routing.state_dict().items():
        state.setdefault(added + name, tensor.detach().clone())
