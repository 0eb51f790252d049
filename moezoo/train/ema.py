"""Weights kept beside those that are trained: a moving average of them, and the best epoch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from moezoo.train.checkpoint import load_model_state, model_state


class KeptWeights:
    """A second set of a model's parameters and buffers, each process's own part where they are sharded.

    No copy of the module: it goes by value into the very model that is trained, through whatever wraps it.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None):
        """``device`` is where they are kept; ``None`` is where the model is."""
        self.model, self.device = model, device
        self.kept = [tensor.to(device or tensor.device, copy=True) for tensor in self._live()]

    def _live(self) -> list[Tensor]:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return [t.to_local() if isinstance(t, DTensor) else t for t in map(Tensor.detach, tensors)]

    @torch.no_grad()
    def take(self) -> None:
        """Keep the model's present values."""
        for kept, live in zip(self.kept, self._live(), strict=True):
            kept.copy_(live)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """``decay`` of what is kept and the rest of the model's; what is no floating-point number is taken over."""
        pairs = list(zip(self.kept, self._live(), strict=True))
        floats = [(kept, live) for kept, live in pairs if kept.is_floating_point()]
        if floats:
            kept_floats, live_floats = map(list, zip(*floats, strict=True))
            torch._foreach_lerp_(kept_floats, live_floats, 1 - decay)
        for kept, live in pairs:
            if not kept.is_floating_point():
                kept.copy_(live)

    @torch.no_grad()
    def give(self) -> None:
        """Put the kept values into the model."""
        for kept, live in zip(self.kept, self._live(), strict=True):
            live.copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the kept values; afterwards its own again, whatever happens."""
        own = KeptWeights(self.model, self.device)
        self.give()
        try:
            yield
        finally:
            own.give()

    def state(self) -> dict[str, Tensor]:
        """The kept values as :func:`~moezoo.train.checkpoint.model_state` gives a model's. Collective."""
        with self.in_place():
            return model_state(self.model)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep what :meth:`state` gave; the model's own values are not touched. Collective."""
        own = KeptWeights(self.model, self.device)
        try:
            load_model_state(self.model, tensors)
            self.take()
        finally:
            own.give()


def warmed_up(decay: float, step: int) -> float:
    """A lower decay in the first steps: the average would otherwise stay at the initial weights for long."""
    return min(decay, (1 + step) / (10 + step))
