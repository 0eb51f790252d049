"""What every router shares: float32 routing, the NaN check, and capacity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError, NonFiniteError
from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.dispatch.capacity import apply_capacity
from moezoo.moe.types import Routing, has_values


class Router(nn.Module, ABC):
    """Turns ``x_TD`` into a :class:`Routing`. Subclasses write :meth:`route`.

    Args:
        dim: Token width D.
        num_experts: E.
        top_k: Experts per token K.
        normalize: Whether a token's K weights sum to one. ``None`` means ``top_k > 1``: with one expert a weight
            renormalised to 1 would leave the router without a gradient.
        capacity_factor: ``None`` is dropless. Otherwise an expert takes at most ``ceil(capacity_factor * T * K / E)``
            assignments and the rest are dropped.

    Raises:
        ConfigError: An argument is out of range, or ``normalize=True`` with ``top_k=1``.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        top_k: int = 1,
        normalize: bool | None = None,
        capacity_factor: float | None = None,
    ):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        self.num_experts = check_int("num_experts", num_experts, low=1)
        self.top_k = check_int("top_k", top_k, low=1, high=num_experts)
        if normalize not in (None, True, False):
            raise ConfigError(f"normalize={normalize!r} is not allowed: it must be None, True or False.")
        if normalize and top_k == 1 and num_experts > 1:
            raise ConfigError(
                "normalize=True with top_k=1 fixes every weight to 1, so the router would get no gradient from the "
                "task. Use normalize=False (the default for top_k=1)."
            )
        self.normalize = top_k > 1 if normalize is None else normalize
        self.capacity_factor = None if capacity_factor is None else check_positive("capacity_factor", capacity_factor)

    @abstractmethod
    def route(self, x_TD: Tensor) -> Routing:
        """The routing before capacity, computed in float32 at least."""

    def forward(self, x_TD: Tensor) -> Routing:
        # Near-ties flip experts in half precision, so routing leaves autocast (which the meta device does not know).
        with nullcontext() if x_TD.is_meta else torch.autocast(x_TD.device.type, enabled=False):
            routing = self.route(x_TD.to(torch.promote_types(x_TD.dtype, torch.float32)))
            if self.training and not torch.compiler.is_compiling() and not _all_finite(routing.logits):
                raise NonFiniteError(
                    "the router's logits are not finite: the input of the MoE layer holds NaN or infinity "
                    "(check the batch and the learning rate). Nothing was changed by this step."
                )
            return routing if self.capacity_factor is None else apply_capacity(routing, self.capacity_factor)

    def extra_repr(self) -> str:
        return f"{self.dim}, num_experts={self.num_experts}, top_k={self.top_k}, normalize={self.normalize}"


def _all_finite(logits_TE: Tensor) -> bool:
    if not has_values(logits_TE):
        return True
    return bool(logits_TE.detach().isfinite().all())
