"""The processes that train one model together, as far as the core knows them: sums over all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The processes of a group, by default all. Copies keep it; a pickle, read elsewhere, forgets it."""

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's ``tensor``, in all of them. Collective.

        Its gradient is meant for losses that all processes compute alike from it and whose mean over the processes is
        learned by, as data parallelism does: each gets its own share, times the number of processes.
        """
        return _Sum.apply(tensor, self)

    def __deepcopy__(self, memo: dict) -> Ranks:
        return self

    def __reduce__(self) -> tuple:
        return _nobody, ()


def token_mean(total: Tensor, num_tokens: int, ranks: Ranks | None) -> Tensor:
    """``total`` over T tokens divided by T, over the tokens of all ranks where there are some; 0 for no tokens."""
    if ranks is None:
        return total / max(num_tokens, 1)
    both = ranks.sum(torch.cat([total.reshape(-1), total.new_full((1,), num_tokens)]))
    return both[:-1].reshape(total.shape) / both[-1].detach().clamp_min(1)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.size = dist.get_world_size(ranks.group)
        total = tensor.detach().clone()
        dist.all_reduce(total, group=ranks.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.size, None


def _nobody() -> None:
    return None
