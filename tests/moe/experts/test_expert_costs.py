"""FLOPs by formula equal torch's own count; parameters that a token does not use are counted right."""

from __future__ import annotations

import pytest
import torch
from expert_reference import KINDS, D, E, H, build
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from moezoo.measure import flops, parameters
from moezoo.moe import MoELayer, record_routing
from moezoo.moe.flops import FLOP_FORMULAS


def counted(layer, x):
    counter = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS)
    with counter, record_routing(layer) as records:
        layer(x)
    return counter.get_total_flops(), records[0].routing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [0, 2])
def test_counted_flops_equal_the_formula(kind, shared):
    layer = build(kind, path="loop", num_shared_experts=shared).eval()
    for scale in (0.1, 1, 10):
        count, routing = counted(layer, scale * torch.randn(5, 6, D, dtype=torch.float64))
        assert count == layer.flops(routing) > 0


def test_by_hand():
    assert build("residual_mlp").experts.flops([1, 0, 2, 0]) == 3 * 2 * (D * H + H * D + D * D)
    assert build("residual_identity").experts.flops([1, 0, 2, 0]) == 3 * 2 * (D * H + H * D)
    assert build("conv").experts.flops([6, 0, 0, 6]) == 12 * 2 * (D * H + 9 * H + H * D)
    assert build("lora").experts.flops([1, 1, 0, 0]) == 2 * 2 * (D * H + H * D + 2 * (D + H) * 2)
    # kinds: residual_mlp, zero, copy, constant
    assert build("mixed").experts.flops([1, 10, 100, 1000]) == 2 * (D * H + H * D + D * D) + 1000 * 2 * (D * 2)
    # mlp of 2, glu of 3, mlp of 6, mlp of 7
    assert build("unequal").experts.flops([1, 10, 100, 1000]) == 2 * D * (
        2 * 2 + 10 * 3 * 3 + 100 * 6 * 2 + 1000 * 7 * 2
    )


def test_counting_changes_nothing():
    layer = MoELayer(
        D,
        num_experts=2,
        expert="modules",
        expert_args={"make": lambda e: nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))},
    )
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    assert layer.experts.flops([3, 5]) == 8 * 2 * D * D
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_measured_on_the_meta_device_as_with_values(kind):
    layer = build(kind, top_k=E, router="dense_softmax" if kind == "conv" else "softmax_topk").eval()
    x = torch.randn(2, 6, D, dtype=torch.float64)
    expected = flops(layer, x)
    assert flops(layer.to("meta"), x.to("meta")).analytic == expected.analytic


ONE = {
    "mlp": D * H + H + H * D + D,
    "glu": D * 2 * H + 2 * H + H * D + D,
    "residual_mlp": D * H + 3 * H + H * D + 3 * D + D * D + D,
    "residual_identity": D * H + 3 * H + H * D + 3 * D,
    "lora": 2 * 2 * (D + H),
    "conv": D * H + H + 10 * H + H * D + D,
}


@pytest.mark.parametrize("kind", ONE)
def test_inactive_parameters_are_those_of_the_experts_not_chosen(kind):
    layer = build(kind)
    inactive = (E - layer.top_k) * ONE[kind]
    assert layer.inactive_parameters() == inactive
    assert parameters(layer).total - parameters(layer).active == inactive


def test_of_unequal_experts_it_is_the_mean():
    layer = build("unequal")
    size = [D * 2 * 2 + 2 + D, D * 3 * 3 + 6 + D, D * H * 2 + H + D, D * 7 * 2 + 7 + D]
    assert layer.experts.expert_parameters() == size
    assert layer.inactive_parameters() == sum(size) * 2 // 4


def test_the_shared_mlp_of_low_rank_experts_is_active_and_does_not_learn():
    found = parameters(build("lora"))
    assert found.total - found.trainable == D * H + H + H * D + D
    assert found.active == found.total - 2 * ONE["lora"]


@pytest.mark.parametrize("kind", KINDS)
def test_shared_experts_are_gated_beside_gated_experts_only(kind):
    assert build(kind, num_shared_experts=1).shared.gated == (kind == "glu")
