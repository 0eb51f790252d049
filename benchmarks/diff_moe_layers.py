"""Two other ways to compute the mixtures of a built model, from the very same weights, to time ours against.

``mask_loop`` is what most hand-written mixtures do: one expert after the other, each on the tokens that a boolean mask
picks. ``every_expert`` runs all experts on all tokens and weighs their results, zero for those not chosen. Both keep
the model's own routers, so all three choose the same experts; experts become modules of their own, as such code has
them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.moe import MoELayer, Routing
from moezoo.moe.experts.per_expert import unstack

Compute = Callable[[nn.ModuleList, Tensor, Routing], Tensor]


def mask_loop(members: nn.ModuleList, x_TD: Tensor, routing: Routing) -> Tensor:
    """Each expert on its tokens alone."""
    expert_TK = routing.expert_index.view(routing.num_tokens, -1)
    weight_TK = routing.weight.view(routing.num_tokens, -1)
    out_TD = torch.zeros_like(x_TD)
    for e, member in enumerate(members):
        chosen_TK = expert_TK == e
        mask_T = chosen_TK.any(dim=-1)
        if mask_T.any():
            weight = (weight_TK * chosen_TK).sum(dim=-1)[mask_T]
            out_TD[mask_T] += weight[:, None].to(x_TD.dtype) * member(x_TD[mask_T])
    return out_TD


def every_expert(members: nn.ModuleList, x_TD: Tensor, routing: Routing) -> Tensor:
    """All experts on all tokens."""
    weight_TE = routing.weight.new_zeros(routing.num_tokens, routing.num_experts)
    weight_TE = weight_TE.index_put((routing.token_index, routing.expert_index), routing.weight, accumulate=True)
    out_TED = torch.stack([member(x_TD) for member in members], dim=1)
    return torch.einsum("te,ted->td", weight_TE.to(x_TD.dtype), out_TED)


WAYS: dict[str, Compute] = {"mask loop": mask_loop, "all experts": every_expert}


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """The model's mixtures, in the order of their names."""
    return [module for module in model.modules() if isinstance(module, MoELayer)]


def computed_by(compute: Compute, model: nn.Module) -> nn.Module:
    """A copy of ``model`` all of whose mixtures are computed by ``compute``."""
    model = copy.deepcopy(model)
    for layer in moe_layers(model):
        layer.members = unstack(layer.experts)
        del layer.experts
        layer.forward = MethodType(_forward(compute), layer)  # type: ignore[method-assign]
    return model


def _forward(compute: Compute) -> Callable[..., Tensor]:
    """:meth:`MoELayer.forward` with another middle."""

    def forward(
        layer: Any,
        x: Tensor,
        *,
        token_type: Tensor | None = None,
        note: Callable[[Routing], None] | None = None,
    ) -> Tensor:
        x_TD = x.reshape(-1, layer.dim)
        types = None if token_type is None else token_type.reshape(-1)
        routing = layer.router(x_TD, samples=x.shape[0] if x.dim() > 2 else 1, token_type=types)
        if note is not None:
            note(routing)
        if layer.training:
            layer.aux.add(routing)
        out_TD = compute(layer.members, x_TD, routing)
        if layer.shared is not None:
            out_TD = out_TD + layer.shared(x_TD)
        return out_TD.reshape(x.shape)

    return forward
