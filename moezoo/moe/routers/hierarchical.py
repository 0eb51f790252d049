"""Two decisions, coarse then fine: which group (a modality), and which of its experts (a scale)."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int
from moezoo.moe.routers.gate_layers import Gates, check_temperature, gate_product, last_layer
from moezoo.moe.routers.skipping import SkippingRouter, tempered, voted, without
from moezoo.moe.types import Routing


class HierarchicalRouter(SkippingRouter):
    """``weight of expert e in group g = coarse_g * fine_ge``, both softmaxes of gates as ``mlp_gate`` has them.

    The experts are G groups of neighbours. The coarse gate sees all of x. The fine gate of a group sees the group's own
    part of x, the g-th of G equal ones, and so cannot be disturbed by the others.

    Args:
        num_groups: G, a divisor of the experts and of ``dim``.
        gate_layers: Of either gate, 1 to 3.
        num_heads: Gates of either kind that vote by the mean of their softmaxes.
        temperature: Of the fine gates.
        coarse_temperature: Of the coarse gate; ``None`` means ``temperature``.
        hidden_dim: Of the coarse gate; ``None`` means ``dim // 2``. The fine gates have 1 / G of it.
        dropout: In the gates, in training.

    The remaining arguments are :class:`~moezoo.moe.routers.skipping.SkippingRouter`'s.

    Raises:
        ConfigError: An argument is out of range, or the groups would be unequal.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        num_groups: int = 1,
        gate_layers: int = 2,
        num_heads: int = 1,
        temperature: float = 1.0,
        coarse_temperature: float | None = None,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.num_groups = G = check_int("num_groups", num_groups, low=1)
        if num_experts % G or dim % G:
            raise ConfigError(
                f"num_groups={G} is not allowed: it must divide num_experts={num_experts} and dim={dim}, as the groups "
                "are of equal size."
            )
        self.temperature = check_temperature(temperature)
        coarse = temperature if coarse_temperature is None else coarse_temperature
        self.coarse_temperature = check_temperature(coarse)
        self.num_heads = heads = check_int("num_heads", num_heads, low=1)
        self.coarse = Gates(heads, dim, gate_layers, hidden_dim, dropout)
        fine_hidden = None if hidden_dim is None else max(hidden_dim // G, 1)
        self.fine = Gates(heads * G, dim // G, gate_layers, fine_hidden, dropout)
        self.coarse_weight, self.coarse_bias = last_layer(heads, G, self.coarse.out_dim)
        self.fine_weight, self.fine_bias = last_layer(heads * G, num_experts // G, self.fine.out_dim)

    def route(self, x_TD: Tensor) -> Routing:
        return self._route(x_TD, None)

    def route_available(self, x_TD: Tensor, available_TE: Tensor) -> Routing:
        return self._route(x_TD, available_TE)

    def _route(self, x_TD: Tensor, available_TE: Tensor | None) -> Routing:
        G, heads = self.num_groups, self.num_heads
        free_TGE = None if available_TE is None else available_TE.unflatten(-1, (G, -1))
        coarse_hTG = gate_product(self.coarse(x_TD), self.coarse_weight, self.coarse_bias)
        coarse_hTG = tempered(coarse_hTG, self.coarse_temperature)
        log_TG = voted(without(coarse_hTG, None if free_TGE is None else free_TGE.any(-1)))
        parts_GTD = x_TD.unflatten(-1, (G, -1)).transpose(0, 1).repeat(heads, 1, 1)
        fine_hTGE = tempered(gate_product(self.fine(parts_GTD), self.fine_weight, self.fine_bias), self.temperature)
        fine_hTGE = fine_hTGE.unflatten(0, (heads, G)).transpose(1, 2)
        log_TGE = log_TG[..., None] + voted(without(fine_hTGE, free_TGE))
        # Twice out of reach would be infinitely far.
        logits_TE = log_TGE.flatten(1).clamp_min(torch.finfo(log_TGE.dtype).min)
        return self.mixture(logits_TE, log_TGE.exp().flatten(1), available_TE)

    def flops(self, routing: Routing) -> int:
        last = self.coarse_weight.numel() + self.fine_weight.numel()
        return 2 * routing.num_tokens * (self.coarse.products() + self.fine.products() + last)
