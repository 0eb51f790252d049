"""How similar experts are, by what they do, who is sent to them, or what they weigh; and groups of similar ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.experts.residual_mlp import ResidualMLP
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating
from moezoo.moe.surgery.align import HIDDEN, Weights, expert_weights, matched_to, units
from moezoo.moe.surgery.observe import Seen

SIMILARITIES = ("outputs", "logits", "weights")
TOKENS_AT_A_TIME = 1024


def similarity(layer: MoELayer, seen: Seen, kind: str, align: bool) -> Tensor:
    """(E, E) float64 in [-1, 1].

    ``outputs``: the cosine of two experts' outputs on all tokens. ``logits``: the correlation of their router logits
    over the tokens. ``weights``: the cosine of their hidden units' weights, matched where ``align``.
    """
    E = layer.num_experts
    if kind == "logits":
        return _cosine(torch.corrcoef(torch.cat([r.clean_logits.double() for r in seen.routings]).t()).view(E, E))
    experts = [expert_weights(layer, e) for e in range(E)]
    gram_EE = torch.zeros(E, E, dtype=torch.float64)
    if kind == "outputs":
        for x_TD in (part for call_TD in seen.inputs(layer.dim) for part in call_TD.split(TOKENS_AT_A_TIME)):
            y_EN = torch.stack([output_of(layer, w, x_TD).flatten() for w in experts]).double()
            gram_EE += (y_EN @ y_EN.t()).cpu()
    else:
        for a in range(E):
            for b in range(a, E):
                other = matched_to(experts[a], experts[b]) if align and a != b else experts[b]
                product = (units(experts[a]) * units(other)).sum()
                for name in experts[a].keys() - set(HIDDEN):
                    product += (experts[a][name].double() * other[name].double()).sum()
                gram_EE[a, b] = gram_EE[b, a] = product
    norm_E = gram_EE.diagonal().sqrt()
    return _cosine(gram_EE / (norm_E[:, None] * norm_E))


def output_of(layer: MoELayer, weights: Weights, x_TD: Tensor) -> Tensor:
    """(T, D): one expert on every token, without dropout."""
    experts, dtype = layer.experts, weights["w_in"].dtype
    if isinstance(experts, ResidualMLP):
        with evaluating(experts):
            return experts.one(x_TD.to(dtype), **weights)
    h = F.linear(x_TD.to(dtype), weights["w_in"], weights["b_in"])
    act = ACTIVATIONS[experts.activation]  # type: ignore[index]
    if experts.gated:
        gate, value = h.chunk(2, dim=-1)
        h = act(gate) * value
    else:
        h = act(h)
    return F.linear(h, weights["w_out"], weights["b_out"])


def group_similar(similarity_EE: Tensor, experts: list[int], number: int) -> list[list[int]]:
    """``experts`` in ``number`` groups: the two groups whose members are most similar on average join, again and again.

    Ties go to the lowest indices; members and groups are in ascending order.
    """
    groups = [[expert] for expert in experts]
    while len(groups) > number:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        i, j = max(pairs, key=lambda pair: float(similarity_EE[groups[pair[0]]][:, groups[pair[1]]].mean()))
        groups[i] = sorted(groups[i] + groups.pop(j))
    return groups


def _cosine(similarity_EE: Tensor) -> Tensor:
    """Zero where an expert does nothing at all, which makes it similar to none."""
    return similarity_EE.cpu().nan_to_num(0.0)
