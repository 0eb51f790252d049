"""Which of a model's tensors belong to the client alone, and which are shared with everyone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.federated.layer import FederatedMoE
from moezoo.moe.experts.conv import ConvExperts
from moezoo.moe.experts.modules import ModuleExperts
from moezoo.moe.layer import MoELayer
from moezoo.moe.paths.packs import repack
from moezoo.names import did_you_mean

LocalExperts = Sequence[int] | Mapping[str, Sequence[int]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """What an average has to know of the shared tensors beside their values."""

    rows: Mapping[str, tuple[str, int]]
    """Of a tensor with a slice per global expert: the MoE layer and the axis."""
    owned: Mapping[str, tuple[str, int]]
    """Of a tensor of a single global expert: the MoE layer, and the expert's place among the layer's global ones."""
    variances: Mapping[str, str]
    """Of a running variance: the running mean it is about."""

    def without_experts(self) -> Layout:
        """For an average that takes experts for plain tensors."""
        return dataclasses.replace(self, rows={}, owned={})


@dataclass(frozen=True)
class ParameterSplit:
    """The tensors of a model's ``state_dict()`` in two: what is local, and what is global.

    A tensor with a slice per expert is cut: its local part and its global part have the same name.
    """

    local_experts: Mapping[str, tuple[int, ...]]
    """Of each MoE layer, in ascending order."""
    global_experts: Mapping[str, tuple[int, ...]]
    stacks: Mapping[str, tuple[str, int]]
    """Tensors with a slice per expert: their MoE layer and the axis."""
    kept: frozenset[str]
    """Tensors that are local as a whole."""
    layout: Layout

    def global_state(self, model: nn.Module) -> State:
        """Copies of what leaves the client, on the CPU."""
        return {
            name: self._part(name, tensor, self.global_experts)
            for name, tensor in model.state_dict().items()
            if name not in self.kept and (name not in self.stacks or self.global_experts[self.stacks[name][0]])
        }

    def local_state(self, model: nn.Module) -> State:
        """Copies of what stays, on the CPU."""
        return {
            name: tensor.detach().cpu().clone() if name in self.kept else self._part(name, tensor, self.local_experts)
            for name, tensor in model.state_dict().items()
            if name in self.kept or (name in self.stacks and self.local_experts[self.stacks[name][0]])
        }

    @torch.no_grad()
    def load_global(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Put in what :meth:`global_state` gave; local tensors stay as they are."""
        self._load(model, state, self.global_experts)

    @torch.no_grad()
    def load_local(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Put in what :meth:`local_state` gave; global tensors stay as they are."""
        self._load(model, state, self.local_experts)

    def all_local(self, model: nn.Module) -> ParameterSplit:
        """Nothing leaves the client: for a client that trains alone."""
        none = dict.fromkeys(self.local_experts, ())
        return ParameterSplit(none, none, {}, frozenset(model.state_dict()), Layout({}, {}, {}))

    def _part(self, name: str, tensor: Tensor, experts: Mapping[str, tuple[int, ...]]) -> Tensor:
        tensor = tensor.detach().cpu()
        if name not in self.stacks:
            return tensor.clone()
        layer, axis = self.stacks[name]
        return tensor.index_select(axis, torch.tensor(experts[layer], dtype=torch.int64)).contiguous()

    def _load(self, model: nn.Module, state: Mapping[str, Tensor], experts: Mapping[str, tuple[int, ...]]) -> None:
        whole = model.state_dict()
        if unknown := [name for name in state if name not in whole]:
            raise InputError(f"the model has no tensor {unknown[0]!r}.{did_you_mean(unknown[0], whole)}")
        for name, value in state.items():
            target = whole[name]
            value = value.to(target.device)
            if name not in self.stacks:
                _check_shape(name, value, target.shape)
                target.copy_(value)
                continue
            layer, axis = self.stacks[name]
            expected = list(target.shape)
            expected[axis] = len(experts[layer])
            _check_shape(name, value, torch.Size(expected))
            target.index_copy_(axis, torch.tensor(experts[layer], device=target.device), value.to(target.dtype))
        repack(model)


def split_parameters(model: nn.Module, local_experts: LocalExperts | None = None) -> ParameterSplit:
    """Say which tensors of ``model`` stay with a client and which are averaged with those of others.

    Local are the experts that are named, with their rows in the router. Everything else is global: other experts and
    their rows, what the router shares, shared experts, the rest of the model, buffers too.

    Args:
        model: Any model with MoE layers, or an MoE layer.
        local_experts: Numbers of experts, for every MoE layer (negative ones count from the end); or MoE layers' paths,
            or patterns of them, and the numbers of each: other layers then have none. An empty sequence makes all
            experts global. ``None`` leaves it to the :class:`FederatedMoE` layers of the model.

    Raises:
        ConfigError: There is no MoE layer, no such expert, or experts or a router that cannot be cut.
    """
    layers = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, MoELayer)}
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no MoE layer, so there are no experts to share or to keep.")
    first = {id(layer): name for name, layer in reversed(layers.items())}  # of a layer with several paths
    chosen = _chosen({name: layers[name] for name in first.values()}, local_experts)
    keys = model.state_dict()
    stacks: dict[str, tuple[str, int]] = {}
    kept: set[str] = set()
    owned: dict[str, tuple[str, int]] = {}
    others = {
        name: tuple(e for e in range(layers[name].num_experts) if e not in local) for name, local in chosen.items()
    }
    for path, layer in layers.items():
        name = first[id(layer)]
        stacks |= {key: (name, axis) for key, axis in _stacked(path, layer, bool(chosen[name])) if key in keys}
        for key, expert in _single(path, layer):
            if key not in keys:
                continue
            if expert in chosen[name]:
                kept.add(key)
            else:
                owned[key] = (name, others[name].index(expert))
    rows = {key: place for key, place in stacks.items() if others[place[0]]}
    return ParameterSplit(chosen, others, stacks, frozenset(kept), Layout(rows, owned, _variances(model, kept)))


def _chosen(layers: Mapping[str, MoELayer], local: LocalExperts | None) -> dict[str, tuple[int, ...]]:
    """The local experts of each layer."""
    if local is None:
        if not any(isinstance(layer, FederatedMoE) for layer in layers.values()):
            raise ConfigError(
                "local_experts must name the experts that stay with a client, for example [-1]: the model has no "
                "FederatedMoE layer that would say it."
            )
        return {name: layer.local_experts if isinstance(layer, FederatedMoE) else () for name, layer in layers.items()}
    if isinstance(local, (str, bytes)) or not isinstance(local, (Sequence, Mapping)):
        raise ConfigError(f"local_experts={local!r} is not allowed: it must be numbers, or numbers by MoE layer.")
    if not isinstance(local, Mapping):
        return {name: _numbers(name, layer, local) for name, layer in layers.items()}
    found: dict[str, tuple[int, ...]] = dict.fromkeys(layers, ())
    for pattern, numbers in local.items():
        matching = [name for name in layers if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(
                f"local_experts: {pattern!r} is no MoE layer of the model.{did_you_mean(pattern, layers)} Layers: "
                f"{', '.join(layers)}."
            )
        found |= {name: _numbers(name, layers[name], numbers) for name in matching}
    return found


def _numbers(name: str, layer: MoELayer, numbers: Sequence[int]) -> tuple[int, ...]:
    size = layer.num_experts
    for number in numbers:
        if type(number) is not int or not -size <= number < size:
            raise ConfigError(
                f"local_experts: {number!r} is no expert of {name or 'the layer'!r}, which has {size}, from 0 to "
                f"{size - 1} (or -{size} to -1). Layers of unequal size take {{layer: numbers}}."
            )
    places = sorted(number % size for number in numbers)
    if len(set(places)) != len(places):
        raise ConfigError(f"local_experts={list(numbers)} names an expert of {name or 'the layer'!r} twice.")
    return tuple(places)


def _stacked(path: str, layer: MoELayer, cut: bool) -> Iterator[tuple[str, int]]:
    """Tensors with a slice per expert, and the axis; ``cut`` says that the layer must be possible to cut."""
    begin = f"{path}." if path else ""
    router, experts = layer.router, layer.experts
    if router.expert_axes is not None:
        yield from ((f"{begin}router.{key}", axis) for key, axis in router.expert_axes.items())
    elif cut and (own := list(router.state_dict())):
        raise ConfigError(
            f"{path or 'the layer'!r} has a {type(router).__name__}, which does not say which part of {own[0]!r} "
            "belongs to which expert (expert_axes), so that none of its experts can be local."
        )
    if experts.stacked or isinstance(experts, ConvExperts):
        yield from ((f"{begin}experts.{key}", 0) for key, _ in experts.named_parameters(recurse=False))
    elif cut and not isinstance(experts, ModuleExperts):
        raise ConfigError(
            f"{path or 'the layer'!r} has {type(experts).__name__} experts, which are neither stacked tensors nor "
            "modules, so that none of them can be local."
        )


def _single(path: str, layer: MoELayer) -> Iterator[tuple[str, int]]:
    """Tensors of single experts, and the expert."""
    if isinstance(layer.experts, ModuleExperts):
        begin = f"{path}.experts.members" if path else "experts.members"
        for expert, member in enumerate(layer.experts.members):
            yield from ((f"{begin}.{expert}.{key}", expert) for key in member.state_dict())


def _variances(model: nn.Module, kept: set[str]) -> dict[str, str]:
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        begin = f"{name}." if name else ""
        pair = f"{begin}running_var", f"{begin}running_mean"
        if getattr(module, "running_var", None) is not None and hasattr(module, "running_mean"):
            found[pair[0]] = pair[1]
    return {var: mean for var, mean in found.items() if var not in kept}


def _check_shape(name: str, value: Tensor, shape: torch.Size) -> None:
    if value.shape != shape:
        raise InputError(f"{name!r} must be {tuple(shape)} here, got {tuple(value.shape)}")
