"""As many experts as a token needs: their number is learned, by a gradient that is a true one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.routers.base import Router, linear_weight, shares
from moezoo.moe.types import Routing


class ComplexityRouter(Router):
    """A token's complexity c in (0, 1) gives it ``n = least + (most - least) c`` experts, the best n of them.

    The expert of rank r (0, 1, …) has the share ``gate_r = min(max(n - r, 0), 1)``: the last one has what is left of n
    after the point, so that the output follows n smoothly, and c learns from what that expert contributes. In
    evaluation an expert with less than half a share is not computed, so that a token has round(n) experts.

    * ``ranked``: a softmax ranks the experts of each token, and its weights are ``softmax * gate`` divided by their
      sum.
    * not ``ranked``: the ranks are the experts' own order, and the weights are the gates: the experts are slices of one
      wide MLP, of which easy tokens use the first.

    ``soft_choice`` are the gates, by which ``compute_budget`` prices the number of experts.

    Args:
        max_experts: The most experts of a token; ``None`` means E. The least are ``top_k``.
        ranked: See above.
        complexity_dim: Hidden width of the MLP that tells c; ``None`` means ``dim // 4``, at least 8.
        complexity_init: What c is at first, the same for all tokens: high enough that every expert learns something.
        normalize: Of ``ranked``: divide a token's weights by their sum; ``None`` means True.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.

    Raises:
        ConfigError: An argument is out of range.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        max_experts: int | None = None,
        ranked: bool = True,
        complexity_dim: int | None = None,
        complexity_init: float = 0.9,
        normalize: bool | None = None,
        **shared,
    ):
        super().__init__(dim, num_experts, normalize=normalize, **shared)
        if not isinstance(ranked, bool):
            raise ConfigError(f"ranked={ranked!r} is not allowed: it must be True or False.")
        if normalize and not ranked:
            raise ConfigError("normalize=True is not allowed with ranked=False, whose weights are shares of one MLP.")
        self.normalize = ranked and normalize is not False
        self.ranked = ranked
        self.max_experts = None if max_experts is None else check_int("max_experts", max_experts, low=1)
        self._check_most(num_experts)
        hidden = max(dim // 4, 8) if complexity_dim is None else check_int("complexity_dim", complexity_dim, low=1)
        start = check_probability("complexity_init", complexity_init)
        if start in (0, 1):
            raise ConfigError(f"complexity_init={complexity_init!r} is not allowed: it must be above 0 and below 1.")
        self.weight = linear_weight(num_experts, dim) if ranked else None
        if not ranked:  # who an expert is, is its place
            self.expert_axes = None  # type: ignore[misc]
        self.hidden_weight = nn.Parameter(torch.empty(hidden, dim))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.complexity_weight = nn.Parameter(torch.empty(1, hidden))
        self.complexity_bias = nn.Parameter(torch.full((1,), math.log(start / (1 - start))))
        nn.init.uniform_(self.hidden_weight, -(dim**-0.5), dim**-0.5)
        nn.init.trunc_normal_(self.complexity_weight, std=0.02)

    @property
    def most(self) -> int:
        """The most experts of a token."""
        return self.num_experts if self.max_experts is None else self.max_experts

    def _check_most(self, num_experts: int) -> None:
        most = num_experts if self.max_experts is None else self.max_experts
        if not self.top_k < most <= num_experts and not self.top_k == most == num_experts == 1:
            raise ConfigError(
                f"max_experts={most} is not allowed: it must be above top_k={self.top_k}, the least experts of a "
                f"token, and at most num_experts={num_experts}. For a fixed number take 'softmax_topk'."
            )

    def set_num_experts(self, num_experts: int) -> None:
        self._check_most(num_experts)
        super().set_num_experts(num_experts)

    def complexity(self, x_TD: Tensor) -> Tensor:
        """(T,) in (0, 1)."""
        h_TH = F.gelu(F.linear(x_TD, self.hidden_weight.to(x_TD.dtype), self.hidden_bias.to(x_TD.dtype)))
        score_T1 = F.linear(h_TH, self.complexity_weight.to(x_TD.dtype), self.complexity_bias.to(x_TD.dtype))
        return score_T1[:, 0].sigmoid()

    def route(self, x_TD: Tensor) -> Routing:
        wanted_T = self.top_k + (self.most - self.top_k) * self.complexity(x_TD)
        rank_E = torch.arange(self.num_experts, device=x_TD.device)
        share_TE = (wanted_T[:, None] - rank_E).clamp(0, 1)
        used_TE = (share_TE > 0 if self.training else share_TE >= 0.5) & (rank_E < self.most)
        if self.weight is None:
            expert_TE = rank_E.expand(x_TD.shape[0], -1)
            # A sigmoid hides a token that is not finite; the check in training looks at the logits.
            broken_T1 = (x_TD.detach() * 0).sum(-1, keepdim=True)
            logits_TE, probs_TE = wanted_T[:, None] - rank_E + broken_T1, shares(share_TE)
            weight_TE = share_TE * used_TE
        else:
            logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
            probs_TE = logits_TE.softmax(-1)
            expert_TE = logits_TE.detach().sort(dim=-1, descending=True, stable=True).indices
            weight_TE = probs_TE.gather(1, expert_TE) * share_TE * used_TE
            if self.normalize:
                weight_TE = shares(weight_TE)
        routing = Routing.from_choice(expert_TE, weight_TE, logits_TE, probs_TE=probs_TE, chosen_TK=used_TE)
        if not torch.is_grad_enabled():
            return routing
        soft_TE = share_TE if self.weight is None else torch.zeros_like(share_TE).scatter(1, expert_TE, share_TE)
        return dataclasses.replace(routing, soft_choice=soft_TE)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_experts={self.most}, ranked={self.ranked}"
