"""Soft MoE (Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts"): experts compute mixtures of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.dispatch.capacity_rules import CapacityRule
from moezoo.moe.routers.base import Router
from moezoo.moe.routers.noise import add_noise
from moezoo.moe.routers.pools import pools_of
from moezoo.moe.types import Routing, Slots

EPSILON = 1e-6


class SoftRouter(Router):
    """``logits = scale * unit(x) . unit(phi)`` of every token and slot (section 2.3); no token is ever dropped.

    A slot is the mean of its sample's tokens by a softmax of the logits over these tokens; a token gets the mean of the
    experts' results by a softmax over all slots. Both go over one sample (an input (T, D) is one), so that no result
    depends on the rest of the batch beyond rounding; with a ``group_size`` over one group. The experts compute
    ``num_experts * num_slots`` rows per sample, however many tokens it has: for the cost of a dense MLP, as in the
    paper, choose that product near the number of tokens. Rather more experts than slots: the paper's best models have
    one slot per expert.

    In the :class:`~moezoo.moe.types.Routing` every token has all experts, in their order, and its weights are what it
    gets of each, all slots together. ``logits`` are the logarithms of these, which leaves the load-balancing and the
    router-z loss constant: the paper trains without any.

    Args:
        num_slots: Slots of each expert; ``phi`` has a column for each.
        noise_std: Standard deviation of Gaussian noise on the logits, in training.
        top_k: Left at 1, or E; both mean E.
        normalize: Left at ``None``, or ``True``; a token's weights sum to one.
        capacity_factor: Left at ``None``; ``num_slots`` says what an expert takes.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    mixes_tokens = True
    expert_axes: ClassVar[Mapping[str, int] | None] = {"phi": 1}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        num_slots: int = 1,
        noise_std: float = 0.0,
        top_k: int = 1,
        normalize: bool | None = None,
        capacity_factor: float | None = None,
        capacity_rule: str | CapacityRule = "gshard",
        eval_capacity_factor: float | None = None,
        **shared,
    ):
        me = type(self).__name__
        if top_k not in (1, num_experts):
            raise ConfigError(
                f"top_k={top_k} is not allowed: {me} uses all {num_experts} experts. Their cost goes by num_slots."
            )
        if normalize is False:
            raise ConfigError(f"normalize=False is not allowed: {me} makes a token's weights sum to one.")
        for name, factor in (("capacity_factor", capacity_factor), ("eval_capacity_factor", eval_capacity_factor)):
            if factor is not None:
                raise ConfigError(f"{name}={factor!r} is not allowed: with {me} num_slots says what an expert takes.")
        if capacity_rule != "gshard":
            raise ConfigError(
                f"capacity_rule={capacity_rule!r} is not allowed: {me} has no capacity; num_slots says what "
                "an expert takes."
            )
        super().__init__(dim, num_experts, top_k=num_experts, normalize=normalize, **shared)
        self.num_slots = check_int("num_slots", num_slots, low=1)
        self.noise_std = check_positive("noise_std", noise_std, zero=True)
        self.phi = nn.Parameter(torch.empty(dim, num_experts, num_slots))
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.normal_(self.phi, std=dim**-0.5)

    def set_num_experts(self, num_experts: int) -> None:
        self.top_k = num_experts
        super().set_num_experts(num_experts)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        T, E = x_TD.shape[0], self.num_experts
        clean_TES = self.similarity(x_TD)
        logits_TES, noise_std = add_noise(clean_TES, self.noise_now())
        size = pools_of(T, samples, self.group_size)[1] if T > 0 else 1
        logits_BLES = logits_TES.view(T // size, size, E, self.num_slots)
        slots = Slots(dispatch=logits_BLES.softmax(1), combine=logits_BLES.flatten(2).softmax(-1).view_as(logits_BLES))
        share_TE = logits_TES.logsumexp(-1).log_softmax(-1)
        probs_TE = share_TE.softmax(-1)
        expert_TE = torch.arange(E, device=x_TD.device).expand(T, E)
        routing = Routing.from_choice(expert_TE, probs_TE, share_TE, probs_TE=probs_TE)
        if noise_std is None:
            return dataclasses.replace(routing, slots=slots)
        clean_TE = clean_TES.logsumexp(-1).log_softmax(-1)
        return dataclasses.replace(routing, slots=slots, clean_logits=clean_TE, noise_std=noise_std)

    def similarity(self, x_TD: Tensor) -> Tensor:
        """(T, E, S) the logits of every token and slot, without noise."""
        key_DP = unit(self.phi.to(x_TD.dtype), dim=0).flatten(1) * self.scale.to(x_TD.dtype)
        return (unit(x_TD, dim=1) @ key_DP).view(x_TD.shape[0], self.num_experts, self.num_slots)

    def noise_now(self) -> float | Tensor:
        """Standard deviation of the noise on these; 0 for none."""
        return self.noise_std if self.training else 0.0

    def flops(self, routing: Routing) -> int:
        """Of the logits, of mixing tokens into slots and slots into tokens: one product each, equally dear."""
        return 3 * super().flops(routing)

    def extra_repr(self) -> str:
        return f"{self.dim}, num_experts={self.num_experts}, num_slots={self.num_slots}"


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Length one along ``dim``, and a slope everywhere, also where a vector is zero."""
    return vectors * (vectors.square().sum(dim, keepdim=True) + EPSILON).rsqrt()
