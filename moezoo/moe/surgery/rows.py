"""New experts' tensors in place of the old ones': which there are, how they are made, and how they are put in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.experts import Experts
from moezoo.moe.experts.residual_mlp import ResidualMLP
from moezoo.moe.experts.stacked import StackedMLP
from moezoo.moe.layer import MoELayer
from moezoo.moe.paths.packs import repack
from moezoo.moe.surgery.report import label

STACKS = ("w_in", "b_in", "w_out", "b_out")
NORMS = ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")
RESIDUAL = ("w_res", "b_res")

Groups = Sequence[Sequence[int]]
"""For each new expert the old ones it is made from."""


@dataclass(frozen=True)
class NewExperts:
    """What takes the place of a layer's experts."""

    made_from: Groups
    router: Mapping[str, Tensor]
    """The router's tensors of :attr:`~moezoo.moe.routers.Router.expert_axes`."""
    experts: Mapping[str, Tensor]
    """The stacks."""


def stack_names(experts: Experts) -> tuple[str, ...]:
    """The tensors with a slice per expert, of the kinds of experts that surgery knows; none of the others."""
    if isinstance(experts, ResidualMLP):
        return (*STACKS, *NORMS, *(RESIDUAL if experts.w_res is not None else ()))
    return STACKS if isinstance(experts, StackedMLP) else ()


def check_layer(name: str, layer: MoELayer) -> None:
    """Refuse what surgery does not know.

    Raises:
        ConfigError: The experts are not plain stacks, or the router has no rows that belong to single experts.
    """
    router, experts = layer.router, layer.experts
    tensors = {n for n, _ in (*experts.named_parameters(), *experts.named_buffers())}
    names = stack_names(experts)
    if not names or tensors != set(names):
        raise ConfigError(
            f"{label(name)} has {type(experts).__name__} experts; surgery knows those of expert='mlp', 'glu' and "
            f"'residual_mlp', with their own tensors alone ({', '.join(names or STACKS)}, …)."
        )
    axes = router.expert_axes
    if axes is None:
        raise ConfigError(
            f"{label(name)} has a {type(router).__name__}, which assigns experts by a fixed rule or does not say which "
            "of its tensors belong to them; surgery takes routers whose class states expert_axes."
        )
    for key, axis in axes.items():
        if getattr(router, key).shape[axis] != layer.num_experts:
            raise ConfigError(
                f"{label(name)}: {type(router).__name__}.expert_axes says that axis {axis} of {key!r} goes over the "
                f"{layer.num_experts} experts, it is {tuple(getattr(router, key).shape)}."
            )


def router_rows(layer: MoELayer, groups: Groups, use_E: Tensor) -> dict[str, Tensor]:
    """The router's tensors of the new experts: a single old expert's row as it is, of several the mean by use."""
    made = {}
    for key, axis in (layer.router.expert_axes or {}).items():
        rows = getattr(layer.router, key).detach().movedim(axis, 0)
        new = [rows[g[0]] if len(g) == 1 else mean_by_use([rows[e] for e in g], use_E[list(g)]) for g in groups]
        made[key] = torch.stack(new).movedim(0, axis).contiguous()
    return made


def expert_stacks(layer: MoELayer, groups: Groups) -> dict[str, Tensor]:
    """The stacks of new experts that are each one old expert."""
    index = [group[0] for group in groups]
    return {name: getattr(layer.experts, name).detach()[index].clone() for name in stack_names(layer.experts)}


def mean_by_use(tensors: list[Tensor], use_G: Tensor) -> Tensor:
    """The mean weighted by use, evenly where there was none."""
    share_G = use_G / use_G.sum() if use_G.sum() > 0 else torch.full_like(use_G, 1 / len(use_G))
    total = sum(share * tensor.double() for share, tensor in zip(share_G.tolist(), tensors, strict=True))
    assert isinstance(total, Tensor)
    return total.to(tensors[0].dtype)


def install(layer: MoELayer, new: NewExperts, *, sources: bool) -> None:
    """Put the new tensors in. Parameters become new objects, trainable as the old ones were.

    Args:
        layer: The layer.
        new: What comes in.
        sources: Whether the layer's experts read sources of their own: each then goes on reading its.

    Raises:
        ConfigError: The router does not allow this number of experts.
    """
    for module, tensors in ((layer.router, new.router), (layer.experts, new.experts)):
        for name, tensor in tensors.items():
            old = getattr(module, name)
            parameter = isinstance(old, nn.Parameter)
            setattr(module, name, nn.Parameter(tensor, requires_grad=old.requires_grad) if parameter else tensor)
    layer.router.set_num_experts(len(new.made_from))
    experts, first = layer.experts, [group[0] for group in new.made_from]
    if sources:
        before = experts.source_of or range(experts.num_experts)
        experts.num_sources = experts.num_sources or experts.num_experts
        experts.source_of = tuple(before[expert] for expert in first)
    experts.num_experts = len(first)
    costs = {kind: args["costs"] for kind, args in layer.aux.args.items() if args.get("costs") is not None}
    layer.aux.args |= {k: {**layer.aux.args[k], "costs": [c[expert] for expert in first]} for k, c in costs.items()}
    repack(layer)


@contextmanager
def undone_on_error(layers: Mapping[str, MoELayer]) -> Iterator[None]:
    """Whatever is raised inside leaves every layer as it was before, its parameters the same objects."""
    modules = [m for layer in layers.values() for part in (layer.router, layer.experts) for m in part.modules()]
    kept = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in modules]
    losses = [dict(layer.aux.args) for layer in layers.values()]
    try:
        yield
    except BaseException:
        for module, attributes, parameters, buffers in kept:
            # The same dictionaries with their old content: handles of hooks refer to some of them.
            vars(module).clear()
            vars(module).update(attributes)
            for now, before in ((module._parameters, parameters), (module._buffers, buffers)):
                now.clear()
                now.update(before)  # type: ignore[arg-type]
        for layer, args in zip(layers.values(), losses, strict=True):
            layer.aux.args = args
            repack(layer)
        raise
