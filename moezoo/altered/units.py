"""The hidden units of a model's experts and MLPs: which rows and columns belong to one, and taking some of them out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moezoo.altered.weights import outside_routers
from moezoo.backbones.mlps import DenseMLP, is_pointwise, recognise
from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.experts import Experts, SharedExperts, StackedMLP
from moezoo.moe.experts.conv import ConvExperts
from moezoo.moe.experts.lora import LoRAExperts
from moezoo.moe.experts.mlp_expert import Activation, ResidualMLPExpert
from moezoo.moe.experts.residual_mlp import ResidualMLP
from moezoo.moe.paths.packs import repack

_STACKS: tuple[type[nn.Module], ...] = (StackedMLP, ResidualMLP, ConvExperts, SharedExperts)
_BY_UNIT = {"w_in": 1, "b_in": 1, "norm1_weight": 1, "norm1_bias": 1, "w_conv": 1, "b_conv": 1, "w_out": 2}
"""Of a stack, the tensors with a slice per hidden unit, and on which axis."""
_POINTWISE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Identity)


@dataclass(frozen=True)
class Cut:
    """A tensor with a slice for every hidden unit."""

    module: nn.Module
    name: str
    axis: int
    halves: bool = False
    """Whether unit i has slices i and i + width: its gate and its value."""

    @property
    def tensor(self) -> Tensor:
        return getattr(self.module, self.name)


@dataclass(frozen=True)
class HiddenUnits:
    """One layer of hidden units, or the like layers of E stacked experts."""

    key: str
    """The path of ``owner``."""
    owner: nn.Module
    """The module they are in, or of a chain the layer that makes them."""
    width: int
    experts: int | None
    """``None``: not stacked."""
    cuts: tuple[Cut, ...]
    in_expert: bool
    """Whether they are in an expert, routed or shared."""

    def norms(self) -> Tensor:
        """(E or 1, width): the L2 norm of all weights, biases and norms apart, that belong to a unit."""
        total = torch.zeros(self.experts or 1, self.width, dtype=torch.float64)
        for cut in self.cuts:
            tensor = cut.tensor.detach()
            if tensor.dim() - (self.experts is not None) < 2:
                continue
            squares = tensor.double().cpu().square()
            squares = squares if self.experts is not None else squares[None]
            by_unit = squares.movedim(cut.axis + (self.experts is None), 1).flatten(2).sum(-1)
            total += by_unit.unflatten(1, (-1, self.width)).sum(1)
        return total.sqrt()

    @torch.no_grad()
    def keep(self, index: Tensor) -> None:
        """Leave only the units of ``index`` (E or 1, how many), which each expert has equally many of."""
        for cut in self.cuts:
            tensor, axis = cut.tensor, cut.axis
            rows = torch.cat([index, index + self.width], dim=1) if cut.halves else index
            rows = rows.to(tensor.device)
            if self.experts is None:
                new = tensor.index_select(axis, rows[0])
            else:
                new = torch.stack([t.index_select(axis - 1, r) for t, r in zip(tensor, rows, strict=True)])
            setattr(cut.module, cut.name, nn.Parameter(new, requires_grad=tensor.requires_grad))
            _tell(cut.module, cut.name, axis, new.shape[axis])
        width = index.shape[1]
        if isinstance(getattr(self.owner, "hidden_dim", None), int):
            self.owner.hidden_dim = width  # type: ignore[assignment]
        self.owner.narrowed_to = width  # type: ignore[assignment]
        repack(self.owner)

    @torch.no_grad()
    def zero(self, index: Tensor) -> None:
        """Fill the slices of the units of ``index`` with zeros and keep the shapes."""
        for cut in self.cuts:
            rows = torch.cat([index, index + self.width], dim=1) if cut.halves else index
            rows = rows.to(cut.tensor.device)
            if self.experts is None:
                cut.tensor.index_fill_(cut.axis, rows[0], 0.0)
            else:
                for tensor, row in zip(cut.tensor, rows, strict=True):
                    tensor.index_fill_(cut.axis - 1, row, 0.0)
        repack(self.owner)


def hidden_units(model: nn.Module) -> dict[str, HiddenUnits]:
    """All that can be taken out, by key. Routers, low-rank experts and what shares a weight are left alone.

    Experts in stacks; MLPs and gated MLPs, recognised by what they compute; :class:`ResidualMLPExpert`; the layers of
    an ``nn.Sequential`` with functions of single numbers between them, and those that a module names in its
    ``hidden_chain``.
    """
    shared = _shared_parameters(model)
    taken: set[tuple[int, str, int]] = set()
    found = {}
    closed: list[str] = []
    inside: list[str] = []
    for path, module in outside_routers(model):
        if any(path.startswith(f"{parent}.") for parent in closed):
            continue
        if isinstance(module, LoRAExperts):
            closed.append(path)
            continue
        if isinstance(module, (Experts, SharedExperts)) or getattr(module, "is_expert", False):
            inside.append(path)
        in_expert = any(path == p or path.startswith(f"{p}.") for p in inside)
        for units in _units_of(path, module, in_expert):
            places = {(id(cut.module), cut.name, cut.axis) for cut in units.cuts}
            tied = any(id(cut.tensor) in shared for cut in units.cuts)
            plain = all(isinstance(cut.tensor, nn.Parameter) for cut in units.cuts)
            if plain and not tied and units.width > 0 and not places & taken:
                taken |= places
                found[units.key] = units
    return found


def _units_of(path: str, module: nn.Module, in_expert: bool) -> Iterator[HiddenUnits]:
    if isinstance(module, _STACKS):
        yield _of_stack(path, module, in_expert)
    elif isinstance(module, ResidualMLPExpert):
        cuts = (*_made_by(module.fc1), Cut(module.norm1, "weight", 0), Cut(module.norm1, "bias", 0))
        width = module.fc1.out_features
        yield HiddenUnits(path, module, width, None, (*cuts, Cut(module.fc2, "weight", 1)), in_expert)
    elif (chain := _chain(module)) is not None:
        for first, second in chain:
            name = next(name for name, part in module.named_modules() if part is first)
            cuts = (*_made_by(first), Cut(second, "weight", 1))
            key = f"{path}.{name}".removeprefix(".")
            yield HiddenUnits(key, first, first.weight.shape[0], None, cuts, in_expert)
    elif (mlp := _mlp(module)) is not None:
        layers = [module.get_submodule(name) for name in mlp.inputs]
        halves = mlp.expert == "glu" and len(layers) == 1
        cuts = tuple(cut for layer in layers for cut in _made_by(layer, halves))
        out = Cut(module.get_submodule(mlp.output), "weight", 1)
        yield HiddenUnits(path, module, mlp.hidden_dim, None, (*cuts, out), in_expert)


def _of_stack(path: str, module: nn.Module, in_expert: bool) -> HiddenUnits:
    gated = bool(getattr(module, "gated", False))
    cuts = tuple(
        Cut(module, name, _BY_UNIT[name], gated and name in ("w_in", "b_in"))
        for name, parameter in module._parameters.items()
        if name in _BY_UNIT and parameter is not None
    )
    width = module.w_out.shape[2]  # type: ignore[index]
    return HiddenUnits(path, module, int(width), len(module.w_out), cuts, in_expert)  # type: ignore[arg-type]


def _made_by(layer: nn.Module, halves: bool = False) -> tuple[Cut, ...]:
    names = ("weight", "bias") if getattr(layer, "bias", None) is not None else ("weight",)
    return tuple(Cut(layer, name, 0, halves) for name in names)


def _chain(module: nn.Module) -> list[tuple[nn.Linear, nn.Linear]] | None:
    """Pairs of linear layers of which the second reads what the first makes, unit by unit."""
    if (declared := getattr(module, "hidden_chain", None)) is not None:
        return list(itertools.pairwise(declared))
    if type(module) is not nn.Sequential:
        return None
    pairs, last = [], None
    for part in module:
        if type(part) is nn.Linear:
            if last is not None:
                pairs.append((last, part))
            last = part
        elif not _elementwise(part):
            last = None
    return pairs or None


def _elementwise(part: nn.Module) -> bool:
    return type(part) in (*_POINTWISE, nn.Dropout, Activation)


def _mlp(module: nn.Module) -> DenseMLP | None:
    """What MLP it is; found out by running it, so only where it may be one."""
    layers = [part for part in module.modules() if is_pointwise(part)]
    if len(layers) not in (2, 3) or layers[0] is module:
        return None
    if not all(isinstance(part._parameters.get("weight"), nn.Parameter) for part in layers):
        return None
    found = recognise(module, 4 if isinstance(layers[0], nn.Conv2d) else 3)
    return found if isinstance(found, DenseMLP) and found.activation in ACTIVATIONS else None


def _shared_parameters(model: nn.Module) -> set[int]:
    seen: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, times in seen.items() if times > 1}


def _tell(module: nn.Module, name: str, axis: int, size: int) -> None:
    """Let a layer say its new size."""
    if name != "weight":
        return
    if isinstance(module, nn.Linear):
        setattr(module, "in_features" if axis else "out_features", size)
    elif isinstance(module, nn.Conv2d):
        setattr(module, "in_channels" if axis else "out_channels", size)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (size,)


def narrowed(model: nn.Module) -> dict[str, int]:
    """How many units :meth:`HiddenUnits.keep` left, by key."""
    return {path: module.narrowed_to for path, module in model.named_modules() if "narrowed_to" in vars(module)}
