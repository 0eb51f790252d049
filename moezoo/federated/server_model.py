"""The model without local experts: a server's own, or a client's on the tensors of its whole one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.federated.layer import FederatedMoE
from moezoo.federated.split import ParameterSplit
from moezoo.moe.surgery.rows import NewExperts, check_layer, expert_stacks, install, router_rows


def server_model(model: nn.Module, split: ParameterSplit, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``model`` with the global tensors ``state`` and without local experts, which no server ever saw.

    Raises:
        ConfigError: A layer's experts or router cannot be cut, or too few experts would be left for ``top_k``.
    """
    split.load_global(made := copy.deepcopy(model), state)
    _leave_out(made, split)
    return made


class SharedView:
    """The model without local experts, on the very parameters of the whole one: to train it is to train that.

    Parameters with a slice per expert are cut anew wherever :attr:`model` reads them, so that their gradient comes to
    the whole ones. Buffers with a slice per expert, which routers change themselves, are copied: see :meth:`buffers`.

    Args:
        whole: As it is to be trained, and where: it must not be moved while the view is in use.
        split: What to leave out.

    Raises:
        ConfigError: As :func:`server_model`.
    """

    def __init__(self, whole: nn.Module, split: ParameterSplit):
        tensors = (*whole.parameters(), *whole.buffers())
        self.model = copy.deepcopy(whole, {id(tensor): tensor for tensor in tensors})  # its modules, these tensors
        _leave_out(self.model, split)
        self._buffers: dict[tuple[nn.Module, str], tuple[nn.Module, _Slices]] = {}  # a layer may have two paths
        for name, (layer, axis) in split.stacks.items():
            path, _, key = name.rpartition(".")
            full, part = whole.get_submodule(path), self.model.get_submodule(path)
            if split.local_experts[layer]:
                tensor = getattr(full, key)
                cut = _Slices(torch.tensor(split.global_experts[layer], device=tensor.device), axis)
                if not isinstance(tensor, nn.Parameter):
                    self._buffers[full, key] = part, cut
                elif part._parameters[key] is not tensor:
                    _read_through(part, key, tensor, cut)

    @contextmanager
    def buffers(self) -> Iterator[None]:
        """For the duration of a step: as the whole model has them before it, and for the whole model after it."""
        with torch.no_grad():
            for (full, key), (part, cut) in self._buffers.items():
                getattr(part, key).copy_(cut.of(getattr(full, key)))
        yield
        with torch.no_grad():
            for (full, key), (part, cut) in self._buffers.items():
                getattr(full, key).index_copy_(cut.axis, cut.index, getattr(part, key))


@dataclass(frozen=True)
class _Slices:
    """Some slices of a tensor."""

    index: Tensor
    axis: int

    def of(self, full: Tensor) -> Tensor:
        return full.index_select(self.axis, self.index)


def _read_through(module: nn.Module, key: str, full: nn.Parameter, cut: _Slices) -> None:
    """Let ``module`` hold the whole parameter and read its slices. torch's parametrizations refuse names as "keys"."""
    setattr(module, key, full)
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {key: property(lambda self: cut.of(self._parameters[key]))})


def _leave_out(model: nn.Module, split: ParameterSplit) -> None:
    """Cut the local experts and their rows out of the layers of ``model``."""
    for name, local in split.local_experts.items():
        if local:
            layer: Any = model.get_submodule(name)
            check_layer(name, layer)
            groups = [[expert] for expert in split.global_experts[name]]
            if not groups:
                raise ConfigError(f"{name!r} has no global expert, and without local ones none at all.")
            # Each new expert is one old one, so their use does not matter.
            use_E = torch.ones(layer.num_experts)
            new = NewExperts(groups, router_rows(layer, groups, use_E), expert_stacks(layer, groups))
            install(layer, new, sources=True)  # the model goes on giving and asking for as many as it knew
            if isinstance(layer, FederatedMoE):
                layer.num_local = 0
