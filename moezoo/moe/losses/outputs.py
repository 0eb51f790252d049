"""Losses on what the experts gave: functions of their outputs and of the routing, zero for no tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.losses.shares import token_mean
from moezoo.moe.precision import without_autocast
from moezoo.moe.types import Routing


def output_diversity_loss(outputs_TED: Tensor, routing: Routing) -> Tensor:
    """Mean over tokens of how alike their experts' outputs are: 0 for uncorrelated ones, 1 for equal or opposite ones.

    Of every pair of a token's experts the squared Pearson correlation of their outputs over the features, averaged over
    the pairs and then over the tokens, so that it depends neither on the size of the batch nor on the weights (a loss
    on the weights would work against their balance). A token with one expert has no pair: 0.

    Args:
        outputs_TED: (T, E, D) each expert's output for each token, zeros where it was not computed.
        routing: Who was computed.
    """
    outputs_TED = outputs_TED.to(torch.promote_types(outputs_TED.dtype, torch.float32))
    with without_autocast(outputs_TED):
        centred_TED = outputs_TED - outputs_TED.mean(-1, keepdim=True)
        # eps keeps the slope finite where an output is constant.
        unit_TED = F.normalize(centred_TED, dim=-1, eps=1e-5)
        correlation_TEE = unit_TED @ unit_TED.transpose(1, 2)
    off_TEE = correlation_TEE - torch.diag_embed(correlation_TEE.diagonal(dim1=1, dim2=2))
    if routing.everything:
        pairs: Tensor | int = max(routing.num_experts * (routing.num_experts - 1), 1)
    else:
        count_T = off_TEE.new_zeros(routing.num_tokens).scatter_add(
            0, routing.token_index, (~routing.dropped).to(off_TEE.dtype)
        )
        pairs = (count_T * (count_T - 1)).clamp_min(1)
    return token_mean((off_TEE.square().sum((1, 2)) / pairs).sum(), routing)
