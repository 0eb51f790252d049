"""Losses of groups of tokens: each by itself, then their mean."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from moezoo.moe import ranks
from moezoo.moe.types import Routing

P = ParamSpec("P")


def over_groups(loss: Callable[Concatenate[Routing, P], Tensor]) -> Callable[Concatenate[Routing, P], Tensor]:
    """``loss`` of every group of a routing that has groups, averaged over all groups of all ranks."""

    @functools.wraps(loss)
    def mean(routing: Routing, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if routing.group_size is None:
            return loss(routing, *args, **kwargs)
        parts = routing.groups()
        # Without tokens it is zero, with a graph.
        measured = parts or [dataclasses.replace(routing, group_size=None, ranks=None)]
        total = torch.stack([loss(part, *args, **kwargs) for part in measured]).sum()
        return ranks.token_mean(total, len(parts), routing.ranks)

    return mean
