"""Experts that differ: a loss on their parameters, keys or outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.moe.checks import check_choice
from moezoo.moe.precision import without_autocast

KINDS = ("orthogonal", "decorrelated")


def expert_diversity_loss(vectors_ED: Tensor, kind: str = "orthogonal") -> Tensor:
    """Mean over pairs of experts of their squared cosine: 0 for orthogonal experts, 1 for equal or opposite ones.

    It is no function of a routing, so it is no kind of ``aux_weights``: add it to the task's loss. For what the experts
    give for each token there is such a kind: ``output_diversity``.

    Args:
        vectors_ED: (E, …) one entry per expert, further axes flattened: stacked weights, the router's keys, or the
            experts' mean outputs.
        kind: ``orthogonal`` compares directions; ``decorrelated`` subtracts each vector's mean first, which makes the
            cosine Pearson's correlation.

    Raises:
        ConfigError: ``kind`` is neither.
        InputError: The tensor has fewer than two axes.
    """
    if vectors_ED.dim() < 2:
        raise InputError(f"expert_diversity_loss takes (E, …), got {tuple(vectors_ED.shape)}")
    centred = check_choice("kind", kind, KINDS) == "decorrelated"
    num_experts = vectors_ED.shape[0]
    vectors_ED = vectors_ED.flatten(1).to(torch.promote_types(vectors_ED.dtype, torch.float32))
    if centred:
        vectors_ED = vectors_ED - vectors_ED.mean(-1, keepdim=True)
    vectors_ED = F.normalize(vectors_ED, dim=-1)
    with without_autocast(vectors_ED):
        cosine_EE = vectors_ED @ vectors_ED.T
    off_EE = cosine_EE - torch.diag_embed(cosine_EE.diagonal())
    return off_EE.square().sum() / max(num_experts * (num_experts - 1), 1)
