"""Token routing in a pretrained transformer: only tokens that matter meet a block's own MLP.

In the spirit of A-MoD (Gadhikar et al. 2024: attention routes), EViT (Liang et al. 2022: the class token's attention
says which patches matter) and DynamicViT (Rao et al. 2021: a keep ratio that is learned), but no token is dropped.
Those that are not worth the block's own MLP get a small one that starts from its most important units, so that the
compute can be dialled without training anew, and all of it is the pretrained model itself. Whole blocks that tokens
skip, as in A-MoD itself, are in :mod:`~moezoo.backbones.tokens.depth`.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from moezoo.backbones.chains import Place
from moezoo.backbones.groups import keep_in_host_groups
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.inject import adapters_of, names_inside
from moezoo.backbones.mlp_places import find_places
from moezoo.backbones.tokens.config import TokenRoutingConfig
from moezoo.backbones.tokens.depth import DepthRouting
from moezoo.backbones.tokens.own import CHILD
from moezoo.backbones.tokens.received import attention_scores
from moezoo.backbones.tokens.route_depth import route_depth
from moezoo.backbones.tokens.routed_mlp import TokenRouting, attach_routing
from moezoo.backbones.tokens.scores import find_attention, has_class_token, resolve_score
from moezoo.backbones.trace import Trace, model_input_size, trace
from moezoo.config import override
from moezoo.errors import ConfigError, InjectionError
from moezoo.moe.aux import mark_root
from moezoo.moe.dial import set_budget, set_threshold

T = TypeVar("T")


@torch.inference_mode(False)  # small MLPs are to be trained, wherever they were made
def route_tokens(
    model: nn.Module, where: Any, config: TokenRoutingConfig, input_size: tuple[int, int, int] | None = None
) -> nn.Module:
    """Let the MLPs, or the whole blocks, at ``where`` route their tokens, in place.

    It is :func:`moezoo.inject_moe` with everything decoded. The model gets ``set_budget(share)`` and
    ``set_threshold(value)``: see :func:`moezoo.set_budget`.

    Raises:
        InjectionError: A place does not exist or holds no MLP that takes tokens, or the model was injected before.
        ConfigError: The scores asked for cannot be had there.
    """
    path, part = vision_part(model)
    for name in adapters_of(part):
        raise InjectionError(f"the model already has an adapter, {name!r}; inject once, with every place in one list.")
    traced = trace(part, model_input_size(part, input_size))
    add = route_depth if config.routes == "block" else _route_mlps
    keep_in_host_groups(part, add(part, traced, names_inside(where, path), config))
    for root in {id(part): part, id(model): model}.values():
        mark_root(root)
        root.set_budget = functools.partial(set_budget, root)  # type: ignore[assignment]
        root.set_threshold = functools.partial(set_threshold, root)  # type: ignore[assignment]
    return model


def _route_mlps(model: nn.Module, traced: Trace, where: Any, config: TokenRoutingConfig) -> dict[str, str]:
    """As :func:`~moezoo.backbones.tokens.route_depth.route_depth`, of MLPs."""
    found = find_places(model, traced, where)
    for place, _ in found:
        _check_place(model, place)
    attentions = [find_attention(traced, block, place.module) for place, block in found]
    made = [_build(model, place, attention, config) for (place, _), attention in zip(found, attentions, strict=True)]
    _check_shared([a for a, routing in zip(attentions, made, strict=True) if routing.scores is not None])
    for (place, _), attention, routing in zip(found, attentions, made, strict=True):
        if routing.scores is not None:
            routing.scores.attach(model.get_submodule(str(attention)))
        attach_routing(model.get_submodule(place.module), routing)
    return {f"{place.module}.{CHILD}": block for place, block in found}


def _check_place(model: nn.Module, place: Place) -> None:
    mlp = model.get_submodule(place.module)
    if place.module != place.anchor or place.dense.channels_first:
        raise InjectionError(
            f"the MLP at {place.module!r} is made of layers that do not take rows of tokens; token routing needs a "
            "module that is the whole MLP, of linear layers. upcycle and inject_moe(adapter='entity') go there."
        )
    if "forward" in mlp.__dict__ or hasattr(mlp, CHILD):
        raise InjectionError(f"{place.module!r} ({type(mlp).__name__}) has a forward of its own already.")
    if not next(mlp.parameters()).is_floating_point():
        raise ConfigError(f"experts need floating-point weights, {place.module} has {next(mlp.parameters()).dtype}.")


def _build(model: nn.Module, place: Place, attention: str | None, config: TokenRoutingConfig) -> TokenRouting:
    """What routes the tokens of the MLP at ``place``, on its device, in its dtype and mode."""
    mlp = model.get_submodule(place.module)
    like = next(mlp.parameters())
    prefix = place.site.prefix_tokens if place.site is not None else 0
    score = resolve_score(config.score, attention, prefix > 0 and has_class_token(model), place.module, model)
    scores = None if score in ("learned", "random") else attention_scores(score, prefix)
    with like.device:  # also where the caller has set another default device
        routing = TokenRouting(mlp, place.dense, config, scores, place.site)
    return routing.to(device=like.device, dtype=like.dtype).train(mlp.training)


def _check_shared(attentions: list[str | None]) -> None:
    for attention, times in Counter(attentions).items():
        if times > 1:
            raise InjectionError(
                f"{times} MLPs follow the attention {attention!r}, which scores its tokens once. score='learned' has "
                "no such limit."
            )


@dataclass(frozen=True)
class TokenRoutingKind:
    """Token routing among the kinds of :data:`moezoo.parts.adapters`."""

    config: type = TokenRoutingConfig
    family: str = "attention_routing"

    def inject(
        self, model: nn.Module, where: Any, config: TokenRoutingConfig, input_size: tuple[int, int, int] | None
    ) -> None:
        """As :meth:`moezoo.backbones.inject.AdapterKind.inject`."""
        route_tokens(model, where, config, input_size)


TOKEN_ROUTING = TokenRoutingKind()


def current_routing(model: nn.Module, config: T) -> T:
    """``config`` with the budget and the threshold that a model with token routing is set to now."""
    router: Any = next((m.moe.router for m in model.modules() if isinstance(m, (TokenRouting, DepthRouting))), None)
    if router is None:
        return config
    live = {"budget": router.budget, "threshold": getattr(router, "threshold_override", None)}
    changed = {key: value for key, value in live.items() if value != getattr(config, key)}
    return override(config, changed)
