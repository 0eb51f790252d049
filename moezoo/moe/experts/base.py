"""What the layer asks of its experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moezoo.moe.checks import check_int
from moezoo.moe.dispatch.plan import STATIC_PATHS, Plan
from moezoo.moe.experts.sources import Sources, rows_from
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing


class Experts(nn.Module, ABC):
    """E experts of one kind. Every expert must stay in the autograd graph, used or not (zeros, never ``None``)."""

    paths: tuple[str, ...] = ("loop",)
    """The paths (:data:`moezoo.moe.paths.RUN`) it can be computed by, the usual one first."""
    gated = False
    """Whether they are gated MLPs, as the shared experts beside them then are too."""
    stacked = False
    """Whether every parameter of its own, as against its children's, has the experts on its first axis, and a forward
    uses nothing else of them than ``plan`` says: such experts can be spread over processes."""
    whole_maps = False
    """Whether an expert needs all tokens of a map: the layer then refuses routers that could split one."""
    source_of: tuple[int, ...] | None = None
    """Which of the ``num_sources`` sources each expert reads, where surgery changed the experts; ``None``: its own."""
    num_sources: int | None = None

    def __init__(self, dim: int, hidden_dim: int, num_experts: int):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        self.hidden_dim = check_int("hidden_dim", hidden_dim, low=1)
        self.num_experts = check_int("num_experts", num_experts, low=1)

    @property
    def out_dim(self) -> int:
        """The width of what they give."""
        return self.dim

    def check_input(self, shape: torch.Size) -> None:
        """Told the shape (..., D) of the layer's input before it is routed, for experts that not every shape suits.

        Raises:
            InputError: The shape does not suit them.
        """

    @abstractmethod
    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        """(N, D) to (N, D): row i through expert ``plan.expert_index[i]``; rows are sorted by expert.

        ``plan.path`` is one of :attr:`paths`. Where it is not static, ``plan.sizes`` are the rows of each expert.
        """

    def from_sources(self, x_TD: Tensor, plan: Plan, sources: Sources) -> Tensor:
        """:meth:`forward`, where each expert's rows are its source's, or those of ``x_TD`` where it has none.

        Raises:
            InputError: The sources do not fit.
        """
        return self(rows_from(sources, x_TD, plan, self.dim), plan)

    def choose_path(self, x_TD: Tensor, routing: Routing) -> str:
        """The path for these tokens, where the layer was given none."""
        if routing.everything and "batched" in self.paths:
            return "batched"  # nothing is padded, and no shape depends on the routing
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not has_values(x_TD):
            return next((path for path in self.paths if path in STATIC_PATHS), self.paths[0])
        return self.paths[0]

    @abstractmethod
    def flops(self, rows: Sequence[int]) -> int:
        """FLOPs (2 x multiply-adds of the matrix products) of a forward pass, where expert e computes ``rows[e]``."""

    def pair_flops(self) -> list[int]:
        """What each expert spends, besides, on every two of the rows that it has of one sample (a row and itself too),
        as attention among them does; the rows are the same in every sample then."""
        return [0] * self.num_experts

    def routed_flops(self, routing: Routing) -> int:
        """FLOPs of a forward pass under ``routing``."""
        rows = routing.expert_rows()
        pairs = (n * n // routing.samples * each for n, each in zip(rows, self.pair_flops(), strict=True) if each)
        return self.flops(rows) + sum(pairs)

    def expert_parameters(self) -> list[int]:
        """The number of parameters of each expert; what all of them share is in none."""
        return [learnt_numbers(self) // self.num_experts] * self.num_experts

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Those that never learn, by the nature of these experts: freezing and unfreezing leaves them alone."""
        return []

    def extra_repr(self) -> str:
        return f"{self.num_experts} x ({self.dim} -> {self.hidden_dim} -> {self.dim})"


def learnt_numbers(module: nn.Module) -> int:
    """How many numbers a module's parameters have, or what stands in the place of a parameter, as int8 weights do."""
    read = (getattr(part, name) for part in module.modules() for name in part._parameters)
    return sum({id(p): p.numel() for p in read if p is not None}.values())
