"""Layers of two experts behind ``score_threshold``, and what they route."""

from __future__ import annotations

import math

import torch
from torch import nn

from moezoo.moe import MoELayer, record_routing

DIM = 4


def layer_of(mode="learnable_threshold", experts=None, *, router="score_threshold", aux=None, path="auto", **args):
    """Two linear experts of width 4 to 3 in float64, without auxiliary losses."""
    own = {"mode": mode, **args} if router == "score_threshold" else args
    layer = MoELayer(
        DIM,
        num_experts=2,
        router=router,
        router_args=own,
        expert="modules",
        expert_args={"modules": experts or [nn.Linear(DIM, 3), nn.Linear(DIM, 3)]},
        out_dim=3,
        aux_weights={} if aux is None else {"compute_budget": 1.0},
        aux_args=None if aux is None else {"compute_budget": aux},
        path=path,
    )
    return layer.double()


def drawn(batch=3, tokens=5, seed=0):
    """Tokens and scores; the scores far from a threshold of 1/2 by more than rounding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, DIM, dtype=torch.float64, generator=generator)
    return x, torch.rand(batch, tokens, dtype=torch.float64, generator=generator)


def routing_of(layer, x, scores=None):
    with record_routing(layer) as records:
        layer(x, scores=scores)
    return records[0].routing


def mask_of(layer, x, scores=None):
    return (routing_of(layer, x, scores).expert_index == 0).view(x.shape[:-1])


def sigmoid(v):
    return 1 / (1 + math.exp(-v))
