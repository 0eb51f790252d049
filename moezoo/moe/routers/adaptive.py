"""Routers that adapt by rule, not by gradient: they count in training and change after the optimiser's step."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from moezoo.moe.routers.base import Router
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing


class AdaptiveRouter(Router):
    """Sums over the training forwards since the last step, over processes too, and adapts when :meth:`step` is called.

    However many forwards a step has, it adapts once, and a recomputation by activation checkpointing counts nothing.
    """

    tally: Tensor
    """(E + 1,) int64: assignments per expert, then tokens, since the last step. Moving the module starts it anew."""

    def __init__(self, dim: int, num_experts: int, **shared):
        super().__init__(dim, num_experts, **shared)
        # No buffer: DistributedDataParallel would overwrite it with the first process's at every forward.
        self.tally = torch.zeros(num_experts + 1, dtype=torch.int64)

    def set_num_experts(self, num_experts: int) -> None:
        super().set_num_experts(num_experts)
        self.tally = self.tally.new_zeros(num_experts + 1)

    @abstractmethod
    def adapt(self, counts_E: Tensor, num_tokens: Tensor) -> None:
        """Change the state by what was counted, int64, at least one token; called without gradients."""

    def limit(self, routing: Routing) -> Routing:
        if self.training and not recomputing():
            with torch.no_grad():
                counts_E = routing.counts(dropped=True).to(torch.int64)
                self.tally += torch.cat([counts_E, counts_E.new_full((1,), routing.num_tokens)])
        return super().limit(routing)

    @torch.no_grad()
    def step(self) -> None:
        """Adapt by what was counted since the last call, and start anew. A collective call where processes share."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.tally)
        if self.tally[-1] > 0:
            self.adapt(self.tally[:-1], self.tally[-1])
        self.tally.zero_()

    def _apply(self, fn, recurse=True):
        """Moves buffers as any module does and keeps floating ones in float32: small steps vanish in half precision."""
        before = {name: b for name, b in self._buffers.items() if b is not None and b.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new is not None and new.dtype != torch.float32:
                self._buffers[name] = old.to(new.device) if not old.is_meta else new.float()
        self.tally = torch.zeros_like(fn(self.tally))
        return self


def step_routers(model: nn.Module) -> None:
    """Let every router of ``model`` that adapts by rule do so. Call it once after each step of the optimiser."""
    for module in model.modules():
        if isinstance(module, AdaptiveRouter):
            module.step()
