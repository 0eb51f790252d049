"""Finding the MLPs of a block: modules that are one, or layer, activation and layer that run one after another."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from torch import nn

from moezoo.backbones.mlps import DenseMLP, Refusal, activation_of, is_pointwise, recognise, widths
from moezoo.backbones.site import Site
from moezoo.backbones.trace import BATCH, Trace


@dataclass(frozen=True)
class Place:
    """An MLP that can be upcycled."""

    anchor: str
    """The module that holds all its layers, whose checkpoint keys are its own."""
    module: str
    """The module to replace: the anchor, or the first layer where the anchor does more than this MLP."""
    dense: DenseMLP
    site: Site | None
    """How the tokens lie, if they lie as the block's do."""
    idle: tuple[str, ...] = ()
    """Modules that have nothing left to do, because their work is done at ``module``."""


def find_mlps(
    model: nn.Module, traced: Trace, block: str, sites: list[Site], skip: tuple[str, ...]
) -> tuple[list[Place], dict[str, str]]:
    """The MLPs inside ``block`` on the channels of its output, and why others cannot be upcycled.

    Args:
        model: The real model; ``traced`` is of its fake copy.
        block: Path of the block.
        sites: What the block returns.
        skip: Paths of modules whose inside is not the backbone's own.
    """
    places: list[Place] = []
    refused: dict[str, str] = {}
    for name in [n for n, _ in traced.model.named_modules() if n == block or n.startswith(f"{block}.")]:
        done = (*(p.anchor for p in places), *skip)
        if any(name == d or name.startswith(f"{d}.") for d in done) or name not in traced.calls:
            continue
        given = traced.calls[name][0].inputs
        found = recognise(model.get_submodule(name), given[0].dim()) if given else None
        if isinstance(found, Refusal):
            refused.setdefault(name, found.reason)
        elif found is not None and any(found.dim == site.dim for site in sites):
            places.append(Place(name, name, found, _site_of(traced, name, found, sites)))
    if not places:
        places = [p for p in _pairs(model, traced, block, sites) if not p.anchor.startswith(skip)]
    return places, {n: why for n, why in refused.items() if not any(p.anchor.startswith(f"{n}.") for p in places)}


def _pairs(model: nn.Module, traced: Trace, block: str, sites: list[Site]) -> list[Place]:
    """Layers whose output goes, through an activation, into another layer: told by the tensors' identity."""
    calls = sorted(
        (c for n, cs in traced.calls.items() if len(cs) == 1 and n.startswith(f"{block}.") for c in cs),
        key=lambda c: c.order,
    )
    leaves = [c for c in calls if not list(traced.model.get_submodule(c.name).children())]
    places = []
    for first in leaves:
        if not is_pointwise(model.get_submodule(first.name)):
            continue
        dim, hidden = widths(model.get_submodule(first.name))
        site = next((s for s in sites if s.dim == dim and _positions(traced, first.name, dim, s)), None)
        path: list[str] = []
        dropout, last = 0.0, first
        while site is not None:
            users = [c for c in leaves if c.order > last.order and any(t is last.output for t in c.inputs)]
            # What passes its input on (a dropout at rest) leaves the tensor to those behind it.
            if not users or (len(users) > 1 and users[0].output is not last.output):
                break
            name, part = users[0].name, model.get_submodule(users[0].name)
            if is_pointwise(part):
                kinds = {isinstance(m, nn.Conv2d) for m in (part, model.get_submodule(first.name))}
                if len(path) and widths(part) == (hidden, dim) and len(kinds) == 1:
                    place = _pair(model, traced, first.name, path, name, dropout, site)
                    places += [place] if place is not None else []
                break
            if isinstance(part, nn.Dropout):
                if dropout and part.p:
                    break
                dropout = dropout or part.p
            elif next(part.parameters(), None) is not None:
                break
            path, last = [*path, name], users[0]
    return places


def _pair(
    model: nn.Module, traced: Trace, first: str, between: list[str], last: str, dropout: float, site: Site
) -> Place | None:
    parts = [model.get_submodule(n) for n in (first, *between, last)]
    if any(m._forward_hooks or m._forward_pre_hooks for m in parts):
        return None  # they would be lost
    acts = [n for n in between if not isinstance(model.get_submodule(n), (nn.Dropout, nn.Identity))]
    activation = activation_of(model.get_submodule(acts[0])) if len(acts) == 1 else None
    if activation is None:
        return None
    steps = zip(first.split("."), last.split("."), strict=False)
    anchor = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], steps)]
    inside = len(".".join(anchor)) + bool(anchor)
    layers = {n[inside:]: model.get_submodule(n) for n in (first, last)}
    dim, hidden = widths(model.get_submodule(first))
    dense = DenseMLP(
        expert="mlp",
        activation=activation,
        dim=dim,
        hidden_dim=hidden,
        inputs=(first[inside:],),
        value_first=False,
        output=last[inside:],
        before=None,
        channels_first=isinstance(model.get_submodule(first), nn.Conv2d),
        dropout=dropout,
        out_dropout=0.0,
        keys=tuple(f"{n}.{p}" for n, m in layers.items() for p in ("weight", "bias") if getattr(m, p) is not None),
    )
    return Place(".".join(anchor), first, dense, _site_of(traced, first, dense, [site]), (*between, last))


def _positions(traced: Trace, name: str, dim: int, site: Site) -> bool:
    """Whether a layer works on as many positions as the block returns, not on pooled ones as channel attention."""
    outputs = traced.calls[site.module][0].output
    feature = outputs if site.output_index is None else outputs[site.output_index]
    return traced.calls[name][0].inputs[0].numel() // dim == feature.numel() // site.dim


def _site_of(traced: Trace, name: str, dense: DenseMLP, sites: list[Site]) -> Site | None:
    """The block's site as the MLP's input lies, if that has the block's tokens in their order."""
    shape = traced.calls[name][0].inputs[0].shape
    site = next(s for s in sites if s.dim == dense.dim)
    if shape[0] != BATCH or len(shape) not in (3, 4):
        return None
    if len(shape) == 4:
        layout = "NCHW" if dense.channels_first else "NHWC"
        return replace(site, module=name, layout=layout, output_index=None, prefix_tokens=0)  # type: ignore[arg-type]
    if site.grid is None or site.grid[0] * site.grid[1] + site.prefix_tokens != shape[1]:
        return None
    return replace(site, module=name, layout="NLC", output_index=None)
