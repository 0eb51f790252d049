"""What a decision loses without a spectrum, and without an expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from moezoo.eval.explanation.naming import expert_labels
from moezoo.eval.explanation.removal import weight_shares, without_expert
from moezoo.eval.explanation.result import ExpertPart
from moezoo.eval.explanation.scoring import Scorer
from moezoo.moe.record import record_routing

Shares: TypeAlias = "tuple[int, Tensor | None]"
"""Experts of a layer, and (B, E) what each weighs in each image, where that can be told."""


def scores_and_shares(
    model: nn.Module, scorer: Scorer, alive: Tensor, nothing: Tensor
) -> tuple[Tensor, dict[str, Shares]]:
    """(B,) scores of the whole images; and of every MoE layer that ran its experts, and what they weigh.

    Args:
        model: Whose layers they are.
        scorer: Of the images.
        alive: (B, M) bool: which spectra are there.
        nothing: (B, M, rows, columns) bool, all of it false.
    """
    scores = torch.zeros(len(alive), dtype=torch.float64)
    shares: dict[str, Shares] = {}
    for rows in _alike(alive, scorer.batch_size):
        with record_routing(model) as records:
            scores[rows] = scorer("whole images", rows, nothing[rows])
        for layer in dict.fromkeys(record.name for record in records):
            own = [record for record in records if record.name == layer]
            told, experts = weight_shares(own, len(rows)), own[0].routing.num_experts
            if layer not in shares:
                shares[layer] = experts, torch.zeros(len(alive), experts, dtype=torch.float64)
            kept = shares[layer][1]
            if told is None or kept is None:
                shares[layer] = experts, None
            else:
                kept[rows] = told
    return scores, shares


def modality_effects(scorer: Scorer, whole: Tensor, alive: Tensor, nothing: Tensor) -> Tensor:
    """(B, M) by how much the score falls when a spectrum is erased as a whole; 0 where it is not there."""
    effects = torch.zeros(alive.shape, dtype=torch.float64)
    case, modality = alive.nonzero(as_tuple=True)
    erased = nothing[case].clone()
    erased[torch.arange(len(case)), modality] = True
    effects[case, modality] = whole[case] - scorer("modalities", case, erased)
    return effects


def expert_parts(
    model: nn.Module, shares: Mapping[str, Shares], scorer: Scorer, whole: Tensor, nothing: Tensor
) -> list[list[ExpertPart]]:
    """For every expert of every layer that ran, B parts."""
    rows, found = torch.arange(len(whole)), []
    weights: list[float | None]
    for layer, (experts, share) in shares.items():
        module = model.get_submodule(layer)
        kind, labels = expert_labels(model, layer, experts)
        for expert in range(experts):
            if share is not None and not bool(share[:, expert].any()):
                effects, weights = [0.0] * len(rows), [0.0] * len(rows)  # it did nothing
            else:
                with without_expert(module, expert):
                    effects = (whole - scorer("experts", rows, nothing)).tolist()
                weights = share[:, expert].tolist() if share is not None else [None] * len(rows)
            found.append(
                [
                    ExpertPart(layer, expert, labels[expert], kind, weight, effect)
                    for weight, effect in zip(weights, effects, strict=True)
                ]
            )
    return found


def _alike(alive: Tensor, size: int) -> list[Tensor]:
    """Batches of rows that lack the same spectra: what only some of a batch lack is routed too, as a blank image."""
    patterns, kind = alive.unique(dim=0, return_inverse=True)
    return [rows for number in range(len(patterns)) for rows in (kind == number).nonzero()[:, 0].split(size)]
