"""Hidden units have no order: matching those of two experts before their weights are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.layer import MoELayer
from moezoo.moe.surgery.rows import mean_by_use, stack_names

Weights = dict[str, Tensor]
"""One expert's slices of the stacks, by name."""
HIDDEN = ("w_in", "b_in", "norm1_weight", "norm1_bias", "w_out")
"""Those with a row, or of ``w_out`` a column, for each hidden unit."""


def expert_weights(layer: MoELayer, expert: int) -> Weights:
    """One expert's slices of the stacks."""
    return {name: getattr(layer.experts, name)[expert].detach() for name in stack_names(layer.experts)}


def units(weights: Weights) -> Tensor:
    """(H, F) float64: all weights of each hidden unit, of a GLU its gate's and its value's."""
    H = weights["w_out"].shape[1]
    rows = torch.cat([weights[name].reshape(len(weights["b_in"]), -1) for name in _rows(weights)], dim=1).double()
    return torch.cat([*rows.split(H), weights["w_out"].t().double()], dim=1)


def _rows(weights: Weights) -> list[str]:
    return [name for name in HIDDEN[:-1] if name in weights]


def matched_to(reference: Weights, weights: Weights) -> Weights:
    """The same expert with its hidden units in the order in which they are closest to the reference's.

    The order minimises the squared distance of the weights, which is a linear assignment (Ainsworth et al. 2023, "Git
    Re-Basin", section 3.2, with one layer to permute).
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    product_HH = units(reference) @ units(weights).t()
    _, order = linear_sum_assignment(product_HH.cpu().numpy(), maximize=True)
    order_H = torch.as_tensor(order, device=weights["w_out"].device)
    H = len(order_H)
    order_W = torch.cat([order_H + start for start in range(0, len(weights["b_in"]), H)])
    rows = {name: weights[name][order_W] for name in _rows(weights)}
    return {**weights, **rows, "w_out": weights["w_out"][:, order_H]}


def averaged(layer: MoELayer, group: list[int], use_E: Tensor, align: bool) -> Weights:
    """The mean of some experts by use, matched to the most used of them; one alone stays as it is."""
    members = {expert: expert_weights(layer, expert) for expert in group}
    if len(group) == 1:
        return members[group[0]]
    reference = max(group, key=lambda expert: float(use_E[expert]))
    if align:
        for expert in group:
            if expert != reference:
                members[expert] = matched_to(members[reference], members[expert])
    return {name: mean_by_use([w[name] for w in members.values()], use_E[group]) for name in members[reference]}
