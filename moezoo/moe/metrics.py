"""What V-MoE's authors report of expert choice and of Soft MoE while they train (google-research/vmoe), by their names.

Functions of a :class:`~moezoo.moe.types.Routing`; numbers for a log, without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.routers.soft import unit
from moezoo.moe.types import Routing

EPSILON = 1e-9


def expert_choice_metrics(routing: Routing) -> dict[str, Tensor]:
    """Of every group of tokens how many experts they got, and the gates they got them with.

    Args:
        routing: Of G groups (one, where it has no ``group_size``).

    Returns:
        (G,) each: ``num_experts_per_item_min`` and ``_max``, ``min_selected_gate`` and ``max_selected_gate``, and
        ``ratio_processed_items_by_at_least_N_experts``, the share of the tokens with N experts or more, for N the
        powers of two below E, and E.

    Raises:
        InputError: There are no tokens.
    """
    if routing.num_tokens == 0:
        raise InputError("expert_choice_metrics takes a routing of some tokens, not of none.")
    E = routing.num_experts
    numbers = [1 << i for i in range(E.bit_length()) if 1 << i < E] + [E]
    rows = []
    for part in (group.detach() for group in routing.groups()):
        kept_N = ~part.dropped
        count_T = part.token_index.new_zeros(part.num_tokens).scatter_add(0, part.token_index, kept_N.long())
        gate_N = part.weight[kept_N]
        rows.append(
            {
                "num_experts_per_item_min": count_T.min(),
                "num_experts_per_item_max": count_T.max(),
                "min_selected_gate": gate_N.min(),
                "max_selected_gate": gate_N.max(),
                **{
                    f"ratio_processed_items_by_at_least_{n}_experts": (count_T >= n).to(gate_N.dtype).mean()
                    for n in numbers
                },
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def soft_metrics(routing: Routing, phi_DES: Tensor | None = None) -> dict[str, Tensor]:
    """How sharp Soft MoE's weights are, and how alike those of different tokens and slots are.

    Args:
        routing: By slots.
        phi_DES: The router's ``phi``; with it the similarity of the slots' own vectors is among the metrics.

    Returns:
        Scalars: ``combine_weights_min_mean`` and ``_max_mean`` (the mean over tokens of the least and of the largest
        weight of a slot), ``dispatch_weights_min_mean`` and ``_max_mean`` (over slots, of a token), and of the cosines
        of every pair of tokens' combine weights, of slots' dispatch weights, and of the slots' vectors ``_min``,
        ``_max`` and ``_mean``: ``combine_weights_similarity_…``, ``dispatch_weights_similarity_…``,
        ``mu_similarity_…``.

    Raises:
        InputError: The routing has no slots.
    """
    if routing.slots is None:
        raise InputError("soft_metrics takes a routing by slots, as router='soft' makes it.")
    dispatch_BLP, combine_BLP = (share.detach().flatten(2) for share in routing.slots)
    metrics = {
        "combine_weights_min_mean": combine_BLP.amin(2).mean(),
        "combine_weights_max_mean": combine_BLP.amax(2).mean(),
        "dispatch_weights_min_mean": dispatch_BLP.amin(1).mean(),
        "dispatch_weights_max_mean": dispatch_BLP.amax(1).mean(),
        **_similarity("combine_weights", combine_BLP),
        **_similarity("dispatch_weights", dispatch_BLP.transpose(1, 2)),
    }
    return (
        metrics
        if phi_DES is None
        else {**metrics, **_similarity("mu", unit(phi_DES.detach(), dim=0).flatten(1).t()[None])}
    )


def _similarity(name: str, vectors_BNV: Tensor) -> dict[str, Tensor]:
    """Of the cosines of each two of the N vectors. The largest is 0 at least, as the authors compute it."""
    N = vectors_BNV.shape[1]
    unit_BNV = vectors_BNV * (vectors_BNV.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
    cosine_BNN = unit_BNV @ unit_BNV.transpose(1, 2)
    pairs = cosine_BNN[:, ~torch.eye(N, dtype=torch.bool, device=cosine_BNN.device)]
    none = pairs.new_zeros(1)
    return {
        f"{name}_similarity_min": (pairs if pairs.numel() else none).min(),
        f"{name}_similarity_max": torch.cat([pairs.flatten(), none]).max(),
        f"{name}_similarity_mean": pairs.mean(),  # NaN of a single vector
    }
