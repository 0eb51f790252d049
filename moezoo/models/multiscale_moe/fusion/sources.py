"""What all fusions by experts share: each expert reads its own input, the gate reads all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer
from moezoo.moe.checks import check_int, check_positive, check_probability
from moezoo.moe.paths.linear import PackedLinear


class SourceFusion(nn.Module):
    """One expert for each of several inputs, a gate over all of them, and what it weighs, mixed.

    ``fused = final(sum_i w_i expert_i(x_i))`` with ``expert_i(x) = drop gelu norm W2 drop gelu norm W1 x + r P x`` and
    ``final`` a last linear layer with norm and GELU. In evaluation experts that the gate finds unimportant can be
    skipped: they are then neither computed nor counted.

    Args:
        feat_dim: Width D of every input and of the result.
        num_inputs: Inputs.
        experts_per_input: Experts that read the same input.
        router: A registered router.
        router_args: Its further arguments.
        hidden_dim: Hidden width of an expert.
        top_k: The most experts of a sample in evaluation; ``None`` means all. In training all take part.
        expert_threshold: The least weight of an expert that is computed in evaluation.
        residual_weight: r; 0 leaves the experts' residual connection out.
        dropout: In the gate, the experts and the last layer.
        final_fusion: Whether there is a last layer.
        balance_weight: Of the squared deviation of the experts' mean weights from ``balance_target``.
        balance_target: ``None`` means an even use.
        sparsity_weight: Of the mean entropy of a sample's weights: larger makes the gate surer.
        diversity_weight: Of the mean squared correlation of the experts' outputs.

    The losses are in :func:`moezoo.aux_loss`, over all calls since the last step's.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        feat_dim: int,
        num_inputs: int,
        experts_per_input: int,
        router: str,
        router_args: Mapping[str, Any],
        *,
        hidden_dim: int = 1024,
        top_k: int | None = None,
        expert_threshold: float = 0.0,
        residual_weight: float = 1.0,
        dropout: float = 0.1,
        final_fusion: bool = True,
        balance_weight: float = 0.01,
        balance_target: float | None = None,
        sparsity_weight: float = 0.001,
        diversity_weight: float = 0.01,
    ):
        super().__init__()
        self.feat_dim = D = check_int("feat_dim", feat_dim, low=1)
        self.experts_per_input = experts_per_input
        num_experts = num_inputs * experts_per_input
        if top_k is not None:
            check_int("top_k", top_k, low=1, high=num_experts)
        check_probability("expert_threshold", expert_threshold)
        check_probability("dropout", dropout)
        if not isinstance(final_fusion, bool):
            raise ConfigError(f"final_fusion={final_fusion!r} is not allowed: it must be True or False.")
        losses = {
            "load_variance": check_positive("balance_weight", balance_weight, zero=True),
            "local_entropy": check_positive("sparsity_weight", sparsity_weight, zero=True),
            "output_diversity": check_positive("diversity_weight", diversity_weight, zero=True),
        }
        if balance_target is not None:
            check_probability("balance_target", balance_target)
        self.moe = MoELayer(
            num_inputs * D,
            num_experts=num_experts,
            router=router,
            router_args={"eval_top_k": top_k, "threshold": expert_threshold, "dropout": dropout, **router_args},
            expert="residual_mlp",
            expert_args={"in_dim": D, "residual_weight": residual_weight},
            hidden_dim=check_int("hidden_dim", hidden_dim, low=1),
            out_dim=D,
            dropout=dropout,
            aux_weights=losses,
            aux_args={} if balance_target is None else {"load_variance": {"target": balance_target}},
        )
        self.final = nn.Sequential(PackedLinear(D, D), nn.LayerNorm(D), nn.GELU(), nn.Dropout(dropout))
        if not final_fusion:
            self.final = nn.Sequential()

    @property
    def num_experts(self) -> int:
        return self.moe.num_experts

    def mix(self, features: list[Tensor], available: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) and (B, E) of a (B, D) feature for each input, where ``available`` (B, E) bool are the experts."""
        own = [feature for feature in features for _ in range(self.experts_per_input)]
        mixed, weights = self.moe(
            torch.cat(features, 1), sources=torch.stack(own), available=available, return_weights=True
        )
        return self.final(mixed), weights
