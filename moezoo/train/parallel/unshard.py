"""A model that ``fully_shard`` changed in place, made what it was: torch itself has no way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from moezoo.moe.parallel.experts import SpreadExperts

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")


def unshard(model: nn.Module) -> None:
    """Whole parameters and the modules' own classes in every process; spread experts stay DTensors. Collective."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    whole: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if isinstance(p, DTensor) and not _is_spread_only(module, p):
                if p not in whole:
                    whole[p] = _gathered(p)
                module._parameters[name] = whole[p]
    for module in model.modules():
        _strip(module)


def own_type(module: nn.Module) -> Any:
    """The class of ``module`` as it was made: ``fully_shard`` gives it another one while it is sharded."""
    # FSDP's class for it, FSDPModule, its own.
    return type(module).__mro__[2] if isinstance(module, FSDPModule) else type(module)


def _is_spread_only(module: nn.Module, p: DTensor) -> bool:
    return isinstance(module, SpreadExperts) and p.device_mesh == module.mesh


def _gathered(p: DTensor) -> nn.Parameter:
    with torch.no_grad():
        return nn.Parameter(p.full_tensor(), requires_grad=p.requires_grad)


def _strip(module: nn.Module) -> None:
    if isinstance(module, FSDPModule):
        module.__class__ = own_type(module)
    for hooks in _HOOKS:
        table: dict[int, Any] = getattr(module, hooks, {})
        for key in [key for key, hook in table.items() if _is_torchs(hook)]:
            del table[key]
    for mark in [m for m in vars(module) if m in _MARKS or m.startswith("__composable_api")]:
        delattr(module, mark)


def _is_torchs(hook: Any) -> bool:
    function = getattr(hook, "hook", hook)  # torch wraps some
    return (getattr(function, "__module__", None) or "").startswith("torch.distributed.")
