"""As many experts as an input needs."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.models.multiscale_moe.fusion.features import as_rows
from moezoo.moe import MoELayer
from moezoo.moe.checks import check_int, check_positive


class DynamicMoE(nn.Module):
    """A mixture of ``min_experts`` to ``max_experts`` of a pool: more for harder inputs.

    The number follows from a learned complexity of the input (router ``complexity``), which gets its gradient from what
    the last expert contributes and from ``price``; a softmax selects which. Experts that are not needed are not
    computed.

    Args:
        dim: Width D.
        num_experts: Experts in the pool.
        min_experts: The least of an input.
        max_experts: The most of an input.
        hidden_dim: Hidden width of an expert; ``None`` means ``4 * dim``.
        price: Loss per expert used.
        balance_weight: Of the loss that keeps the experts evenly used.
        dropout: On the experts' hidden units, in training.

    The losses are in :func:`moezoo.aux_loss`. How many experts an input has is the number of its weights above 0.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int = 8,
        min_experts: int = 2,
        max_experts: int = 8,
        hidden_dim: int | None = None,
        *,
        price: float = 0.01,
        balance_weight: float = 0.01,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        check_int("num_experts", num_experts, low=2)
        self.min_experts = check_int("min_experts", min_experts, low=1, high=num_experts)
        self.max_experts = check_int("max_experts", max_experts, low=1, high=num_experts)
        if min_experts >= max_experts:
            raise ConfigError(
                f"min_experts={min_experts} is not allowed with max_experts={max_experts}: there would be nothing to "
                "decide. It must be below."
            )
        self.moe = MoELayer(
            dim,
            num_experts=num_experts,
            top_k=min_experts,
            router="complexity",
            router_args={"max_experts": max_experts},
            hidden_dim=hidden_dim,
            dropout=dropout,
            aux_weights={
                "compute_budget": check_positive("price", price, zero=True),
                "load_balancing": check_positive("balance_weight", balance_weight, zero=True),
            },
            aux_args={"compute_budget": {"costs": [1.0] * num_experts}},
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) to (..., D) and (..., E) the weights, which sum to one; 0 for experts that are not used.

        Raises:
            InputError: The width does not fit.
        """
        mixed, weights = self.moe(as_rows(x, self.dim, self), return_weights=True)
        return mixed.reshape(x.shape), weights.reshape(*x.shape[:-1], self.moe.num_experts)
