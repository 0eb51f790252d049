"""Whose tokens the auxiliary losses speak of, where several processes train one model."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice
from moezoo.moe.ranks import Ranks
from moezoo.moe.routers.base import Router

SCOPES = ("local", "global")


def set_balance_scope(model: nn.Module, scope: str, group: dist.ProcessGroup | None = None) -> None:
    """Let the auxiliary losses of ``model`` measure this process's tokens alone, or those of all processes.

    A balance loss is no mean over tokens: with ``local`` (as built) every process asks for an even load of its own few
    tokens. With ``global`` the statistics are summed over the processes, so that every process has the loss of all
    tokens together, and the mean over the processes of the gradients, which data parallelism takes, is that of one
    process with all tokens, also where they hold unequally many. Add :func:`moezoo.aux_loss` as it is then, whatever
    the task's loss is weighted with. In training every forward is collective then, one on an empty batch too. Capacity
    and expert choice go by a process's own tokens in both.

    Args:
        model: With MoE layers, or without: nothing happens then.
        scope: ``local`` or ``global``.
        group: The processes; ``None`` means all.

    Raises:
        ConfigError: ``scope`` is neither, or there are no processes: ``torch.distributed`` is not initialised.
    """
    ranks = None
    if check_choice("scope", scope, SCOPES) == "global":
        if not (dist.is_available() and dist.is_initialized()):
            raise ConfigError("scope='global' needs several processes: torch.distributed is not initialised.")
        ranks = Ranks(group)
    for module in model.modules():
        if isinstance(module, Router):
            module.ranks = ranks
