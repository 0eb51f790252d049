"""MoELayer.flops(routing) equals what torch's own counter sees, on both paths."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moezoo.moe import MoELayer, record_routing
from moezoo.moe.flops import FLOP_FORMULAS

CASES = [
    {},
    {"top_k": 2},
    {"top_k": 4, "num_shared_experts": 2},
    {"expert": "glu", "top_k": 2, "num_shared_experts": 1},
    {"top_k": 2, "capacity_factor": 0.5},
    {"num_experts": 1},
]


def counted(layer, x):
    with (
        FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter,
        record_routing(layer) as records,
    ):
        y = layer(x)
    return counter.get_total_flops(), records[0].routing, y


@pytest.mark.parametrize("path", ["loop", "grouped"])
@pytest.mark.parametrize("args", CASES)
def test_counted_flops_equal_the_formula(path, args):
    layer = MoELayer(8, **{"num_experts": 4, "hidden_dim": 12, "path": path, **args}).eval()
    flops, routing, _ = counted(layer, torch.randn(3, 7, 8))
    assert flops == layer.flops(routing)


def test_the_formula_by_hand():
    layer = MoELayer(8, num_experts=4, top_k=2, hidden_dim=12)
    _, routing, _ = counted(layer, torch.randn(10, 8))
    assert layer.flops(routing) == 2 * 10 * 8 * 4 + 20 * 2 * (8 * 12 + 12 * 8)
    shared = MoELayer(8, num_experts=4, hidden_dim=12, num_shared_experts=3)
    _, routing, _ = counted(shared, torch.randn(10, 8))
    assert shared.flops(routing) == 2 * 10 * 8 * 4 + 10 * 2 * 192 + 10 * 2 * 3 * (192 + 8 + 8)


def test_the_backward_of_the_grouped_product_costs_twice_its_forward():
    layer = MoELayer(8, num_experts=4, top_k=2, hidden_dim=12, path="grouped", capacity_factor=0.75)
    x = torch.randn(3, 7, 8, requires_grad=True)
    forward, routing, y = counted(layer, x)
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        y.sum().backward()
    router = 2 * routing.num_tokens * 8 * 4
    grouped = {op: n for op, n in counter.get_flop_counts()["Global"].items() if "grouped_mm" in str(op)}
    assert sum(grouped.values()) == 2 * (forward - router)
    assert counter.get_total_flops() == 2 * forward


def test_tensors_without_values_count_as_if_nothing_was_dropped():
    with torch.device("meta"):
        layer = MoELayer(8, num_experts=4, top_k=2, hidden_dim=12, capacity_factor=0.5).eval()
    flops, routing, _ = counted(layer, torch.randn(10, 8, device="meta"))
    assert flops == layer.flops(routing) == 2 * 10 * 8 * 4 + 20 * 2 * 192
