"""Layer-wise learning rates: an adapter belongs to timm's parameter group of the block that it follows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from timm.models import group_parameters
from torch import nn


class HostGroups:
    """Stands in for ``model.group_matcher`` where that would lose an adapter (its pattern knows no such name).

    Args:
        model: The model; a copy of it carries a copy of this that refers to the copy.
        hosts: For the path of each adapter the name of a parameter of its block.
    """

    def __init__(self, model: nn.Module, hosts: dict[str, str]):
        self.model = model
        self.hosts = hosts

    def __call__(self, coarse: bool = False) -> Any:
        """What ``timm.models.group_parameters`` takes: a function from a name to the number of its group."""
        groups = _groups(self.model, coarse)
        return functools.partial(_group_of, groups, {a: groups[h] for a, h in self.hosts.items() if h in groups})


def keep_in_host_groups(model: nn.Module, adapters: Mapping[str, str]) -> nn.Module:
    """Let timm's ``param_groups_layer_decay`` give each adapter its block's learning rate; returns ``model``.

    Nothing is done where timm's own patterns do so already, or where the model has none (timm then groups the
    parameters by their order, and those of an adapter follow its block's).

    Args:
        model: The injected model.
        adapters: For the path of each adapter that of the module it follows.
    """
    if hasattr(type(model), "group_matcher"):
        hosts = host_parameters(model, adapters)
        if any(_lost(model, coarse, hosts) for coarse in (False, True)):
            model.group_matcher = HostGroups(model, hosts)  # type: ignore[assignment]
    return model


def host_parameters(model: nn.Module, adapters: Mapping[str, str]) -> dict[str, str]:
    """For each adapter the last parameter of the module it follows, or the last before that if it has none."""
    paths = tuple(f"{path}." for path in adapters)
    names = [name for name, _ in model.named_parameters() if not name.startswith(paths)]
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    hosts = {}
    for path, hooked in adapters.items():
        own = [n for n in names if n.startswith(f"{hooked}.")]
        before = [n for n in names if order[n.rpartition(".")[0]] < order[hooked]]
        if own or before:
            hosts[path] = (own or before)[-1]
    return hosts


def _groups(model: nn.Module, coarse: bool) -> dict[str, int]:
    kind: Any = type(model)  # the class's own, behind what may stand in for it
    return group_parameters(model, kind.group_matcher(model, coarse), reverse=True)


def _lost(model: nn.Module, coarse: bool, hosts: dict[str, str]) -> bool:
    try:
        groups = _groups(model, coarse)
    except AssertionError:  # RDNet has no coarse groups
        return False
    return any(groups[host] != g for path, host in hosts.items() for name, g in groups.items() if _in(name, path))


def _in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _group_of(groups: dict[str, int], adapters: dict[str, int], name: str) -> float:
    """The group of a parameter, or of a module, which is that of its first parameter."""
    for path, group in adapters.items():
        if _in(name, path):
            return group
    return groups[name] if name in groups else next((g for key, g in groups.items() if _in(key, name)), float("inf"))
