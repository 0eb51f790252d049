"""One layer at the edges: logits that half precision cannot hold, everything to one expert, ties, almost no room."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import moezoo
from moezoo.moe import MoELayer

HALVES = (torch.float16, torch.bfloat16)
DROPPING = ("softmax_topk", "noisy_topk", "bpr_topk")
"""Routers of different orders of service under a capacity."""


def routed(layer, x):
    with moezoo.record_routing(layer) as records:
        y = layer(x)
    return y, records[0].routing


@pytest.mark.parametrize("dtype", HALVES)
def test_logits_beyond_the_range_of_half_precision_route_as_in_float32(dtype):
    layer = MoELayer(16, num_experts=4, top_k=2)
    nn.init.normal_(layer.router.weight, std=100.0)
    x = (100 * torch.randn(12, 16)).to(dtype)
    half = copy.deepcopy(layer).to(dtype)
    exact = copy.deepcopy(half).float()
    wanted, choice = routed(exact.eval(), x.float())
    y, routing = routed(half.eval(), x)
    assert choice.logits.abs().max() > torch.finfo(torch.float16).max
    assert routing.logits.dtype == torch.float32
    assert torch.equal(routing.expert_index, choice.expert_index)
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert (y.float() - wanted).abs().max() < 0.02 * wanted.abs().max()
    half.train()(x).float().mean().add(1e-9 * moezoo.aux_loss(half)).backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("expert", ["mlp", "glu"])
def test_half_precision_on_a_cpu_stays_near_float32_in_values_and_gradients(dtype, expert):
    layer = MoELayer(16, num_experts=4, top_k=2, num_shared_experts=1, expert=expert).to(dtype)
    exact = copy.deepcopy(layer).float()
    x = torch.randn(20, 16).to(dtype)
    y, wanted = layer(x), exact(x.float())
    assert y.dtype == dtype
    assert (y.float() - wanted).abs().max() < 0.02 * wanted.abs().max()
    y.float().square().mean().backward()
    wanted.square().mean().backward()
    for (name, p), q in zip(layer.named_parameters(), exact.parameters(), strict=True):
        assert p.grad.dtype == dtype
        assert (p.grad.float() - q.grad).abs().max() < 0.05 * q.grad.abs().max() + 1e-4, name


@pytest.mark.parametrize("path", ["loop", "sorted", "batched", "grouped"])
@pytest.mark.parametrize("router", DROPPING)
def test_all_tokens_to_one_expert_beyond_its_capacity_are_dropped_counted_and_zero(router, path):
    layer = MoELayer(8, num_experts=4, top_k=1, router=router, capacity_factor=1.0, path=path)
    with torch.no_grad():
        layer.router.weight.zero_()[2].fill_(1.0)  # of positive tokens
    x = torch.rand(40, 8) + 1
    for training in (False, True):
        y, routing = routed(layer.train(training), x)
        if training and router == "noisy_topk":
            continue  # its noise may choose another expert
        assert routing.counts(dropped=True).tolist() == [0, 0, 40, 0]
        assert routing.counts().tolist() == [0, 0, 10, 0]
        lost = torch.zeros(40, dtype=torch.bool).index_fill_(0, routing.token_index[routing.dropped], True)
        assert not y[lost].any()
        assert (y[~lost].abs().sum(-1) > 0).all()
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_a_tiny_capacity_still_serves_someone_and_counts_the_rest():
    layer = MoELayer(8, num_experts=4, top_k=2, capacity_factor=1e-6).eval()
    y, routing = routed(layer, torch.randn(50, 8))
    assert routing.counts().max() == 1
    assert routing.dropped.sum() == 100 - routing.counts().sum()
    assert y.isfinite().all()


def test_equal_logits_choose_alike_again_after_loading_and_in_the_recomputation():
    layer = MoELayer(8, num_experts=6, top_k=2)
    nn.init.zeros_(layer.router.weight)
    loaded = MoELayer(8, num_experts=6, top_k=2)
    loaded.load_state_dict(layer.state_dict())
    x = torch.randn(30, 8)
    first = routed(layer, x)[1].expert_index
    assert torch.equal(routed(layer, x)[1].expert_index, first)
    assert torch.equal(routed(loaded, x)[1].expert_index, first)
    assert torch.equal(routed(loaded.eval(), x)[1].expert_index, first)
    grads = []
    for recompute in (False, True):
        layer.zero_grad()
        y = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        (y.square().sum() + moezoo.aux_loss(layer)).backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
