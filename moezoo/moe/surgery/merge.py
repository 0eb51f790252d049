"""Merging experts that do similar things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.layer import MoELayer
from moezoo.moe.surgery.align import averaged
from moezoo.moe.surgery.observe import Seen
from moezoo.moe.surgery.operate import groups_of, operate
from moezoo.moe.surgery.report import SurgeryReport, label
from moezoo.moe.surgery.rows import NewExperts, router_rows
from moezoo.moe.surgery.similar import SIMILARITIES, group_similar, similarity


def merge_experts(
    model: nn.Module,
    *,
    num_experts: int,
    data: Any,
    similar_by: str = "outputs",
    align: bool = True,
    by: str = "assignments",
    layers: Sequence[str] | str | None = None,
) -> SurgeryReport:
    """Merge similar experts until ``num_experts`` are left, in place (compare Li et al. 2024, "Merge, Then Compress").

    A merged expert has the mean of its members' weights, weighted by their use on ``data``, after their hidden units
    were matched to those of the most used one. Its row in the router is the mean of theirs with the same weights, and
    so are its thresholds and biases. So its logit is the mean of its members' logits. That keeps a score that an expert
    has for itself (sigmoid, threshold, ReLU); of a softmax the members' summed probability would be the logarithm of
    the sum of exponentials of their logits, which no row gives, so the merged expert gets less of it than its members
    had together. With ``top_k > 1`` a token that used two of the members now has a place free for another expert. The
    report says what all this comes to.

    Parameters become new objects: make the optimiser, and wrap for several devices, afterwards.

    Args:
        model: Any model with MoE layers, or an MoE layer.
        num_experts: Experts that each layer has afterwards; with a router's groups, which are merged within, an equal
            number in each.
        data: See :func:`prune_experts`.
        similar_by: Which experts are similar: ``outputs`` (on all tokens of the layer's input), ``logits`` (of the
            router, over the tokens), or ``weights`` (after matching, which takes a linear assignment for each pair).
        align: Match hidden units; without, weights are averaged as they lie.
        by: What use is; see :func:`prune_experts`.
        layers: Paths or fnmatch patterns of MoE layers; ``None`` means all.

    Raises:
        ConfigError: A number does not fit, a layer's experts or router cannot be operated on, or its experts read
            sources of their own, which no merged one could. Nothing is changed.
        InputError: ``data`` is not that, or gives a layer no token. Nothing is changed.
    """
    check_int("num_experts", num_experts, low=1)
    check_choice("similar_by", similar_by, SIMILARITIES)
    if not isinstance(align, bool):
        raise ConfigError(f"align={align!r} is not allowed: it must be True or False.")

    def plan(name: str, layer: MoELayer, seen: Seen, use_E: Tensor) -> NewExperts:
        check_int(f"{label(name)}: num_experts", num_experts, low=1, high=layer.num_experts - 1)
        if seen.sources:
            raise ConfigError(f"{label(name)}: its experts read different sources, so that none can stand for another.")
        groups = groups_of(layer, "num_experts", num_experts)
        similarity_EE = similarity(layer, seen, similar_by, align)
        made_from = [m for group in groups for m in group_similar(similarity_EE, group, num_experts // len(groups))]
        merged = [averaged(layer, members, use_E, align) for members in made_from]
        stacks = {key: torch.stack([weights[key] for weights in merged]) for key in merged[0]}
        return NewExperts(made_from, router_rows(layer, made_from, use_E), stacks)

    return operate(model, data, layers, by, plan)
