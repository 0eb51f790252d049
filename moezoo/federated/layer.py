"""A mixture some of whose experts never leave the client."""

from __future__ import annotations

from typing import Any

from moezoo.moe.checks import check_int
from moezoo.moe.layer import MoELayer


class FederatedMoE(MoELayer):
    """An MoE layer of ``num_global`` experts that clients share and ``num_local`` that stay, and one gate over both.

    The global experts come first. In a round the gate's rows travel with their experts: those of the global ones are
    averaged, those of the local ones stay. Any other model gets local experts by naming them:
    :func:`~moezoo.federated.split_parameters`.

    Args:
        dim: Token width D.
        num_local: Experts that stay.
        num_global: Experts that are averaged.
        layer: Arguments of :class:`~moezoo.moe.MoELayer`, ``num_experts`` excepted.

    Raises:
        ConfigError: An argument is unknown or out of range.
    """

    def __init__(self, dim: int, num_local: int = 1, num_global: int = 3, **layer: Any):
        check_int("num_local", num_local, low=0)
        check_int("num_global", num_global, low=1)
        super().__init__(dim, num_experts=num_global + num_local, **layer)
        self.num_local, self.num_global = num_local, num_global

    @property
    def local_experts(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(range(self.num_global, self.num_global + self.num_local))

    @property
    def global_experts(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(range(self.num_global))

    def extra_repr(self) -> str:
        return f"num_local={self.num_local}, num_global={self.num_global}, {super().extra_repr()}"
