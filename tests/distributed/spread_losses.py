"""What the ranks of the tests do with losses: each has some tokens, and together they have all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

import moezoo
from moezoo.moe import MoELayer, Routing, losses, set_aux_mode, set_balance_scope

DIM, EXPERTS = 5, 4
KINDS: dict[str, Callable[[Routing], Tensor]] = {
    **losses.AUX_LOSSES,
    "load_balancing not by k": partial(losses.load_balancing_loss, normalize_by_k=False),
    "load_variance to a target": partial(losses.load_variance_loss, target=0.3),
    "kl_balance hard": partial(losses.kl_balance_loss, kind="hard"),
    "global_entropy to a threshold": partial(losses.global_entropy_loss, threshold=2.0),
    "budget": partial(losses.compute_budget_loss, target=0.5, gradient="probs"),
    "budget as a price": losses.compute_budget_loss,
    "budget of each sample": lambda routing: losses.compute_budget_loss(
        dataclasses.replace(routing, samples=max(routing.num_tokens, 1)), target=0.5, gradient="probs", scope="sample"
    ),
    "load_balancing of first choices": partial(losses.load_balancing_loss, first_choice=True),
    "importance of groups": lambda routing: losses.importance_loss(dataclasses.replace(routing, group_size=7)),
    "load_balancing of groups": lambda routing: losses.load_balancing_loss(dataclasses.replace(routing, group_size=7)),
    "load with noise": partial(losses.load_loss, noise_std=0.5),
}


def tokens(cuts: tuple[int, ...]) -> list[Tensor]:
    """Of each rank."""
    x = torch.randn(sum(cuts), DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return list(x.split(list(cuts)))


def layer(router: str = "softmax_topk", **arguments) -> MoELayer:
    torch.manual_seed(0)
    moe = MoELayer(DIM, num_experts=EXPERTS, top_k=2, hidden_dim=3, router=router, **arguments).double()
    with torch.no_grad():
        moe.router.weight.mul_(20)
    return moe


def by_loss(x: Tensor, prepare: Callable[[MoELayer], None] = lambda moe: None) -> dict[str, tuple[Tensor, Tensor]]:
    """Every loss on ``x`` with its gradient of the router's weight; the last ones are a router's own, and attached."""
    found = {}
    for name, loss in KINDS.items():
        moe = layer()
        prepare(moe)
        found[name] = _with_gradient(loss(moe.router(x)), moe)
    moe = layer("relu", router_args={"l1_coefficient": 1.0}, aux_weights={})
    prepare(moe)
    moe(x)
    found["penalty"] = _with_gradient(moezoo.aux_loss(moe), moe)
    moe = layer(aux_weights={"load_balancing": 1.0, "importance": 1.0})
    set_aux_mode(moe, "attached")
    prepare(moe)
    found["attached"] = _with_gradient(0.0 * moe(x).sum(), moe)
    return found


def by_loss_of_rank(cuts: tuple[int, ...], scope: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean over the ranks of what each has."""
    mine = by_loss(tokens(cuts)[dist.get_rank()], lambda moe: set_balance_scope(moe, scope))
    for pair in mine.values():
        for tensor in pair:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return mine


def _with_gradient(loss: Tensor, moe: MoELayer) -> tuple[Tensor, Tensor]:
    loss.backward()
    weight = moe.router.weight
    return loss.detach(), torch.zeros_like(weight) if weight.grad is None else weight.grad
