"""Losses of groups of tokens: each by itself, then their mean."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from torch import Tensor

from moezoo.moe import ranks
from moezoo.moe.types import Routing

P = ParamSpec("P")


def over_groups(loss: Callable[Concatenate[Routing, P], Tensor]) -> Callable[Concatenate[Routing, P], Tensor]:
    """``loss`` of every group of a routing that has groups, averaged over all groups of all ranks.

    Args:
        loss: Of a routing with groups it gives (G,) theirs, of another one a scalar.
    """

    @functools.wraps(loss)
    def mean(routing: Routing, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if routing.group_size is None:
            return loss(routing, *args, **kwargs)
        each_G = loss(dataclasses.replace(routing, ranks=None), *args, **kwargs)
        return ranks.token_mean(each_G.sum(), len(each_G), routing.ranks)

    return mean
