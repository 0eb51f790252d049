"""Removing experts that are hardly used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.moe.checks import check_int
from moezoo.moe.layer import MoELayer
from moezoo.moe.surgery.observe import Seen
from moezoo.moe.surgery.operate import groups_of, operate, ranked_in
from moezoo.moe.surgery.report import SurgeryReport, label
from moezoo.moe.surgery.rows import NewExperts, expert_stacks, router_rows


def prune_experts(
    model: nn.Module, *, keep: int, data: Any, by: str = "assignments", layers: Sequence[str] | str | None = None
) -> SurgeryReport:
    """Remove the experts that ``data`` uses least, in place; the rest keep their weights and their order.

    The router loses the same rows; shared experts stay. Tokens whose expert is gone go to their next best, so a model
    whose removed experts were never chosen computes what it did, provided that the weights of the chosen do not depend
    on the others (a softmax that is not normalised over the chosen gives them the probability set free).

    Parameters become new objects: make the optimiser, and wrap for several devices, afterwards. With a capacity the
    room per expert grows as experts get fewer. Where experts read sources of their own (``sources=``), each goes on
    reading its, and the layer is called as before, with sources for all.

    Args:
        model: Any model with MoE layers, or an MoE layer.
        keep: Experts that remain in each layer, from ``top_k`` to one less than there are. Where the router has
            groups, each keeps an equal number.
        data: A batch (a tensor, or a mapping of keyword arguments) or an iterable of batches, on the model's device;
            of ``(images, labels)`` pairs the labels are left out, and a pair alone, with whole numbers as labels, is
            one batch. What the layers see of it is kept in memory.
        by: ``assignments`` counts the tokens an expert computes; ``weight`` sums their routing weights, as is always
            done for gates that give every token every expert (``mlp_gate``, ``hierarchical``).
        layers: Paths or fnmatch patterns of MoE layers; ``None`` means all.

    Returns:
        What was removed, and by how much the outputs on ``data`` changed.

    Raises:
        ConfigError: A number does not fit, or a layer's experts or router cannot be operated on. Nothing is changed.
        InputError: ``data`` is not that, or gives a layer no token. Nothing is changed.
    """
    check_int("keep", keep, low=1)

    def plan(name: str, layer: MoELayer, seen: Seen, use_E: Tensor) -> NewExperts:
        check_int(f"{label(name)}: keep", keep, low=1, high=layer.num_experts - 1)
        groups = groups_of(layer, "keep", keep)
        kept = [sorted(ranked_in(use_E, group)[: keep // len(groups)]) for group in groups]
        made_from = [[expert] for group in kept for expert in group]
        return NewExperts(made_from, router_rows(layer, made_from, use_E), expert_stacks(layer, made_from))

    return operate(model, data, layers, by, plan)
