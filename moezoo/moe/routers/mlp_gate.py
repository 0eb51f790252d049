"""A gate that is an MLP (or several that vote), for few experts with sources of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from moezoo.moe.checks import check_int
from moezoo.moe.routers.gate_layers import Gates, check_temperature, gate_product, last_layer
from moezoo.moe.routers.skipping import SkippingRouter, tempered, voted, without
from moezoo.moe.types import Routing


class MLPGateRouter(SkippingRouter):
    """``weights = softmax(gate(x) / temperature)``; of several gates, the mean of their softmaxes.

    A gate of 2 layers is ``W2 dropout(gelu(norm(W1 x + b1))) + b2``; of 3 it has one hidden layer more, of 1 it is
    linear.
    ``logits`` of several gates are the logarithms of their mean.

    Args:
        gate_layers: 1 to 3.
        num_heads: Gates, each with weights of its own.
        temperature: Above 1 evens the weights out, below 1 sharpens them.
        hidden_dim: Of the gate; ``None`` means ``dim // 2``.
        dropout: In the gate, in training.

    The remaining arguments are :class:`~moezoo.moe.routers.skipping.SkippingRouter`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 1, "bias": 1}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        gate_layers: int = 2,
        num_heads: int = 1,
        temperature: float = 1.0,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.num_heads = check_int("num_heads", num_heads, low=1)
        self.temperature = check_temperature(temperature)
        self.gates = Gates(num_heads, dim, gate_layers, hidden_dim, dropout)
        self.weight, self.bias = last_layer(num_heads, num_experts, self.gates.out_dim)

    def route(self, x_TD: Tensor) -> Routing:
        return self._route(x_TD, None)

    def route_available(self, x_TD: Tensor, available_TE: Tensor) -> Routing:
        return self._route(x_TD, available_TE)

    def _route(self, x_TD: Tensor, available_TE: Tensor | None) -> Routing:
        gates_GTE = gate_product(self.gates(x_TD), self.weight, self.bias)
        gates_GTE = without(tempered(gates_GTE, self.temperature), available_TE)
        logits_TE = gates_GTE[0] if self.num_heads == 1 else voted(gates_GTE)
        return self.mixture(logits_TE, logits_TE.softmax(-1), available_TE)

    def flops(self, routing: Routing) -> int:
        return 2 * routing.num_tokens * (self.gates.products() + self.weight.numel())
