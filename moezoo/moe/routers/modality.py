"""Routing fixed by the kind of the token: each modality has experts of its own (Wang et al. 2021, "VLMo")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_int
from moezoo.moe.routers.base import Router
from moezoo.moe.routers.fixed import fixed_routing
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing


class ModalityRouter(Router):
    """Tokens of type i go to the experts of type i, with weight 1 each. It has no parameters.

    Args:
        experts_of_type: For each type its expert, or its 1 to ``top_k`` experts. ``None`` gives type i the ``top_k``
            experts from ``i * top_k`` on, and so ``num_experts / top_k`` types.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s; ``normalize`` shares the weight 1 evenly among
    a token's experts.
    """

    type_experts: Tensor
    """(types, K) int64: each type's experts, short rows filled up."""
    type_chosen: Tensor
    """(types, K) bool: False where a row was filled up."""

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        experts_of_type: Sequence[int | Sequence[int]] | None = None,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        K = self.top_k
        if experts_of_type is None:
            if num_experts % K:
                raise ConfigError(
                    f"router 'modality' gives each type top_k={K} experts: num_experts={num_experts} must be a "
                    "multiple of it, or pass experts_of_type."
                )
            experts_of_type = [range(i, i + K) for i in range(0, num_experts, K)]
        if isinstance(experts_of_type, str) or not isinstance(experts_of_type, Sequence) or not experts_of_type:
            raise ConfigError(f"experts_of_type={experts_of_type!r} is not allowed: it must list each type's experts.")
        rows = [list(row) if isinstance(row, Sequence) else [row] for row in experts_of_type]
        for row in rows:
            if not 1 <= len(row) <= K or len(set(row)) != len(row):
                raise ConfigError(
                    f"experts_of_type={experts_of_type!r} is not allowed: each type has 1 to top_k={K} experts, "
                    "none of them twice."
                )
            for expert in row:
                check_int("experts_of_type", expert, low=0, high=num_experts - 1)
        self.num_types = len(rows)
        experts = torch.tensor([row + [row[0]] * (K - len(row)) for row in rows])
        self.register_buffer("type_experts", experts, persistent=False)
        chosen = torch.tensor([[k < len(row) for k in range(K)] for row in rows])
        self.register_buffer("type_chosen", chosen, persistent=False)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        if token_type is None:
            raise InputError("router 'modality' needs token_type=, a kind for every token")
        if not torch.compiler.is_compiling() and has_values(token_type) and len(token_type):
            low, high = int(token_type.min()), int(token_type.max())
            if low < 0 or high >= self.num_types:
                raise InputError(f"token_type holds {low} to {high}; router 'modality' knows 0 to {self.num_types - 1}")
        expert_TK, chosen_TK = self.type_experts[token_type], self.type_chosen[token_type]
        return fixed_routing(x_TD, expert_TK, self.num_experts, self.normalize, chosen_TK)
