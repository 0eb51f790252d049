"""SpheroMoE routing (Zhu et al. 2024, "MoE Jetpack: From Dense Checkpoints to Adaptive Mixture of Experts for Vision
Tasks", section 3.2): soft slots by cross-attention on the hypersphere."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_bool, check_positive, check_probability
from moezoo.moe.routers.soft import SoftRouter, unit
from moezoo.moe.types import Routing


class SpheroRouter(SoftRouter):
    """``S = unit(norm(q)) . (W x + b)`` of every token and slot; softmaxes of ``(S + noise) / T`` mix as in ``soft``.

    The queries q (``phi``) pass a LayerNorm and are projected onto the unit sphere; tokens become keys by a linear map,
    whose length is kept. A slot is the mean of its sample's tokens by a softmax over these (equation 10), and a token
    gets the mean of the results by a softmax over all slots (equation 11). What regularises, in training: noise, T,
    which is learned, and experts that are left out.

    Where it goes behind a transformer's own LayerNorm, as a block's MLP does, x is normalised as the paper has it, by
    the dense checkpoint's norm. Core and universal experts are experts of unequal width: ``expert="mixed"`` with
    ``hidden_dims``, which :func:`moezoo.upcycle` with ``init="recycle"`` chooses; every expert has slots of its own.

    Args:
        num_slots: Slots of each expert.
        temperature_init: T at first: large ones spread every slot over all tokens.
        noise_std: Standard deviation of Gaussian noise on S, in training; ``None`` means 1 / E, as in the released
            configurations.
        expert_drop: The chance of an expert to be left out of a sample, in training; the others' results are divided
            by one minus it.
        normalize_keys: Keys of length one too, as in the released code; the paper keeps their length.

    The remaining arguments are :class:`~moezoo.moe.routers.soft.SoftRouter`'s.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        num_slots: int = 1,
        temperature_init: float = 1.0,
        noise_std: float | None = None,
        expert_drop: float = 0.0,
        normalize_keys: bool = False,
        **shared,
    ):
        super().__init__(dim, num_experts, num_slots=num_slots, **shared)
        del self.scale  # what a temperature is the inverse of
        self.noise_std = None if noise_std is None else check_positive("noise_std", noise_std, zero=True)  # type: ignore[assignment]
        self.expert_drop = check_probability("expert_drop", expert_drop)
        self.normalize_keys = check_bool("normalize_keys", normalize_keys)
        check_positive("temperature_init", temperature_init)
        self.log_temperature = nn.Parameter(torch.tensor([temperature_init]).log())
        self.query_norm = nn.LayerNorm(dim)
        self.key = nn.Linear(dim, dim)
        nn.init.normal_(self.key.weight, std=dim**-0.5)
        nn.init.zeros_(self.key.bias)

    @property
    def temperature(self) -> Tensor:
        """() T, which is positive whatever is learned."""
        return self.log_temperature[0].exp()

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        routing = super().route_samples(x_TD, samples, token_type)
        if not self.training or not self.expert_drop or routing.slots is None:
            return routing
        combine_BLES = routing.slots.combine
        B, L, E, _ = combine_BLES.shape
        kept_BE = (torch.rand(B, E, device=x_TD.device) >= self.expert_drop).to(combine_BLES.dtype)
        kept_BE = kept_BE / max(1 - self.expert_drop, torch.finfo(kept_BE.dtype).tiny)
        slots = routing.slots._replace(combine=combine_BLES * kept_BE[:, None, :, None])
        weight_N = (routing.weight.view(B, L, E) * kept_BE[:, None]).reshape(-1)
        return dataclasses.replace(routing, slots=slots, weight=weight_N)

    def similarity(self, x_TD: Tensor) -> Tensor:
        """(T, E, S) S / T."""
        dtype = x_TD.dtype
        norm, key = self.query_norm, self.key
        query_ESD = F.layer_norm(
            self.phi.movedim(0, -1).to(dtype), (self.dim,), norm.weight.to(dtype), norm.bias.to(dtype), norm.eps
        )
        key_TD = F.linear(x_TD, key.weight.to(dtype), key.bias.to(dtype))
        if self.normalize_keys:
            key_TD = unit(key_TD, dim=1)
        query_DP = unit(query_ESD, dim=-1).flatten(0, 1).t() / self.temperature.to(dtype)
        return (key_TD @ query_DP).view(x_TD.shape[0], self.num_experts, self.num_slots)

    def noise_now(self) -> float | Tensor:
        std = 1 / self.num_experts if self.noise_std is None else self.noise_std
        return std / self.temperature if self.training and std else 0.0

    def flops(self, routing: Routing) -> int:
        """Of the keys, and of the three products of ``soft``."""
        slots = self.num_experts * self.num_slots
        return 2 * routing.num_tokens * self.dim * (self.dim + 3 * slots)
