import dataclasses

import pytest
import torch

from moezoo.moe import Routing


@pytest.fixture
def noisy():
    """Builds a float64 routing by noisy logits from random clean ones, which carry the gradient."""

    def build(num_tokens, num_experts, top_k, noise_std=0.5):
        clean = 2 * torch.randn(num_tokens, num_experts, dtype=torch.float64)
        logits = clean + noise_std * torch.randn_like(clean)
        return Routing.from_logits(logits, top_k, clean_logits_TE=clean)

    return build


@pytest.fixture
def with_places():
    """Makes of a top-k routing one that has a place for every expert, the others never chosen and not computed."""

    def build(routing):
        mask = torch.zeros(routing.num_tokens, routing.num_experts, dtype=torch.bool)
        mask[routing.token_index, routing.expert_index] = True
        weight = torch.zeros_like(routing.probs).index_put((routing.token_index, routing.expert_index), routing.weight)
        placed = Routing.from_mask(mask, weight, routing.logits)
        return dataclasses.replace(placed, clean_logits=routing.clean_logits)

    return build
