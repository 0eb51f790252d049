"""Expert choice (Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing", eq. 2-3): experts pick tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_positive
from moezoo.moe.dispatch.capacity_rules import sym_min, takes_factor
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.routers.noise import add_noise
from moezoo.moe.routers.pools import pools_of
from moezoo.moe.types import Routing

SCOPES = ("sample", "batch")


class ExpertChoiceRouter(Router):
    """Every expert takes its C most probable tokens: the load is even by construction, and nothing is dropped.

    ``probs`` are a softmax over experts, and the weights are these. A token may get any number of experts, also none.
    C is the capacity of ``T * top_k / E`` tokens (``top_k`` experts per token on average) and at most T.

    Args:
        scope: ``sample`` picks within each sample, so that no result depends on the rest of the batch; ``batch`` picks
            among all tokens, so that it does. With a ``group_size`` it is the group, whatever samples are in it. T is
            the number of tokens in the scope.
        sigma: The logits get Gaussian noise of standard deviation ``sigma / E`` in training.
        normalize: Divide a token's weights by their sum; ``None`` means ``False``, as in the paper.
        capacity_factor: Multiplies C; ``None`` means 1.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        scope: str = "sample",
        sigma: float = 0.0,
        normalize: bool | None = None,
        capacity_factor: float | None = None,
        **shared,
    ):
        if capacity_factor is None and takes_factor(shared.get("capacity_rule", "gshard")):
            capacity_factor = 1.0
        super().__init__(dim, num_experts, normalize=normalize or False, capacity_factor=capacity_factor, **shared)
        self.scope = check_choice("scope", scope, SCOPES)
        if self.group_size is not None and scope != "sample":
            raise ConfigError(f"scope={scope!r} does nothing with group_size={self.group_size}: groups are the scope.")
        self.sigma = check_positive("sigma", sigma, zero=True)
        self.weight = linear_weight(num_experts, dim)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        num_tokens, num_experts = x_TD.shape[0], self.num_experts
        clean_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        logits_TE, noise_std = add_noise(clean_TE, self.sigma / num_experts if self.training else 0.0)
        probs_TE = logits_TE.softmax(-1)
        scopes, size = pools_of(num_tokens, samples if self.scope == "sample" else 1, self.group_size)
        # By log-probabilities, which still differ where probabilities underflow to ties.
        log_SLE = logits_TE.detach().log_softmax(-1).view(scopes, size, num_experts)
        picked_SCE = best_tokens(log_SLE, self._picks(size))
        offset_S = size * torch.arange(scopes, device=x_TD.device)
        token_N = (picked_SCE + offset_S[:, None, None]).reshape(-1)
        expert_N = torch.arange(num_experts, device=x_TD.device).expand(picked_SCE.shape).reshape(-1)
        token_N, order_N = token_N.sort(stable=True)
        expert_N = expert_N[order_N]
        weight_N = probs_TE[token_N, expert_N]
        if self.normalize:
            total_T = torch.zeros_like(probs_TE[:, 0]).index_add(0, token_N, weight_N)
            weight_N = weight_N / total_T[token_N]
        return Routing(
            token_index=token_N,
            expert_index=expert_N,
            weight=weight_N,
            logits=logits_TE,
            clean_logits=clean_TE,
            probs=probs_TE,
            dropped=torch.zeros_like(token_N, dtype=torch.bool),
            num_tokens=num_tokens,
            num_experts=num_experts,
            noise_std=noise_std,
        )

    def limit(self, routing: Routing) -> Routing:
        return routing

    def _picks(self, num_tokens: int) -> int:
        """How many of so many tokens an expert takes."""
        if num_tokens == 0:
            return 0
        return sym_min(self.capacity(num_tokens), num_tokens)


def best_tokens(score_SLE: Tensor, capacity: int) -> Tensor:
    """(S, C, E) the C tokens of each scope that an expert scores highest, best first; ties go to the first token."""
    # A stable sort, not topk, whose order among equals is unspecified.
    return score_SLE.sort(dim=1, descending=True, stable=True).indices[:, :capacity]
