"""Whether a router's logits are finite, asked without a wait for the device."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from moezoo.moe.tracing import has_values


class FiniteCheck:
    """Remembers, of calls on a GPU, the answers that are still under way. Copies and pickles remember none.

    What the CPU computed is known at once. A GPU is not waited for: its answer is copied aside and read by a later
    call, so that a router in training is at most told too late.
    """

    def __init__(self) -> None:
        self._awaited: deque[tuple[Tensor, Any]] = deque()

    def passes(self, logits_TE: Tensor) -> bool:
        """Whether they are finite; on a GPU ``True``, and :meth:`passed` tells later."""
        if not has_values(logits_TE) or not logits_TE.numel():
            return True
        largest = logits_TE.detach().abs().amax()  # NaN, if there is one
        if not answers_later(largest):
            return math.isfinite(largest)
        if not capturing():
            self._awaited.append(copied_aside(largest))
        return True

    def passed(self) -> bool:
        """Whether all earlier logits were finite whose answers have arrived by now. ``False`` is told once."""
        if not self._awaited or capturing():
            return True
        while self._awaited and self._awaited[0][1].query():
            if not math.isfinite(self._awaited.popleft()[0]):
                self._awaited.clear()  # calls since then are of the same weights
                return False
        return True

    def __reduce__(self) -> tuple[type[FiniteCheck], tuple[()]]:
        return FiniteCheck, ()


def answers_later(value: Tensor) -> bool:
    """Whether reading ``value`` waits for a device that can copy it aside."""
    return value.is_cuda and not torch._C._are_functorch_transforms_active()


def capturing() -> bool:
    """Whether the work of this call is recorded for a CUDA graph, which holds no questions to the device."""
    return torch.cuda.is_current_stream_capturing()


def copied_aside(value: Tensor) -> tuple[Tensor, Any]:
    """``value`` on its way to the CPU, and the event of its arrival."""
    with torch.cuda.device(value.device):
        aside, arrival = value.to("cpu", non_blocking=True), torch.cuda.Event()  # into pinned memory
        arrival.record()
    return aside, arrival
