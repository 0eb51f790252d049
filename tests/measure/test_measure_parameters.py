"""Parameters: total, active, trainable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moezoo.measure import Parameters, parameters
from moezoo.moe import MoELayer


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_active_leaves_out_the_experts_a_token_does_not_choose(device):
    with torch.device(device):
        net = nn.Sequential(nn.Linear(4, 4), MoELayer(4, num_experts=5, top_k=2, hidden_dim=6, num_shared_experts=1))
    expert = 6 * 4 + 6 + 4 * 6 + 4
    total = 20 + 5 * expert + 5 * 4 + (expert + 5)
    assert parameters(net) == Parameters(total=total, active=total - 3 * expert, trainable=total)


def test_a_shared_layer_counts_once():
    layer = MoELayer(4, num_experts=3, hidden_dim=4)
    assert parameters(nn.Sequential(layer, layer)) == parameters(layer)


def test_frozen_parameters_are_not_trainable():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    assert parameters(net) == Parameters(total=30, active=30, trainable=10)
