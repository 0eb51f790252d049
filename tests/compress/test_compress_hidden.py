"""Structured pruning: which hidden units go, that they are really gone, and what that costs."""

from __future__ import annotations

import copy

import pytest
import torch
from compressible import MODELS, images_for
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import nn

import moezoo
from moezoo.compress import prune_expert_networks, prune_experts, prune_hidden, quantize, size_of
from moezoo.errors import ConfigError
from moezoo.measure import flops, parameters
from moezoo.moe import MoELayer
from moezoo.moe.experts.mlp_expert import MLPExpert, ResidualMLPExpert

KINDS = {"mlp": {}, "glu": {}, "residual_mlp": {}, "conv": {"grid": (4, 4)}}
CHAIN = nn.Sequential(
    *(nn.Linear(16, 30), nn.ReLU(), nn.Dropout(0.1)), *(nn.Linear(30, 30), nn.GELU()), nn.Linear(30, 4)
)


def without_some(layer, kept):
    """The layer with the other hidden units' outgoing weights zero, by expert: what removing them has to give."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for e, units in enumerate(kept):
            mask = torch.zeros(twin.experts.hidden_dim, dtype=torch.bool)
            mask[units] = True
            twin.experts.w_out[e][:, ~mask] = 0
    return twin


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "residual_mlp"])
def test_the_units_with_the_smallest_weights_go_and_the_rest_computes_as_before(kind):
    torch.manual_seed(0)
    router = "dense_softmax" if kind == "conv" else "softmax_topk"
    args = {"num_experts": 3, "top_k": 3 if kind == "conv" else 2, "router": router}
    layer = MoELayer(16, hidden_dim=20, expert=kind, expert_args=KINDS[kind], num_shared_experts=1, **args).eval()
    tokens, experts = torch.randn(2, 16, 16), layer.experts
    weights = [experts.w_in.unflatten(1, (-1, 20)).square().sum((1, 3)), experts.w_out.square().sum(1)]
    if kind == "conv":
        weights.append(experts.w_conv.square().sum((2, 3)))
    kept = sum(w.detach().double() for w in weights).topk(14, dim=1).indices.sort().values.tolist()
    wanted = without_some(layer, kept)
    report = prune_hidden(layer, 0.3, layers="experts", input=tokens)
    assert report.hidden == {"experts": (20, 14)}
    assert layer.experts.hidden_dim == 14
    assert layer.experts.w_out.shape == (3, 16, 14)
    assert len({tuple(units) for units in kept}) > 1, "every expert chooses its own"
    torch.testing.assert_close(layer(tokens), wanted(tokens))
    layer.train()(tokens).sum().backward()
    assert all(p.grad is not None for p in layer.experts.parameters())


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Mlp(16, 30), (2, 5, 16)),
        (Mlp(16, 30, use_conv=True), (2, 16, 5, 5)),
        (GluMlp(16, 60, act_layer=nn.SiLU, gate_last=False), (2, 5, 16)),
        (SwiGLU(16, 30), (2, 5, 16)),
        (MLPExpert(16, 30, gated=True), (7, 16)),
        (ResidualMLPExpert(16, 30), (7, 16)),
        (CHAIN, (7, 16)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_mlps_of_every_make_lose_a_third_of_their_units(net, shape):
    x, before = torch.randn(shape), copy.deepcopy(net).eval()
    net.eval()
    report = prune_hidden(net, 1 / 3, input=x)
    assert set(report.hidden.values()) == {(30, 20)}
    assert net(x).shape == before(x).shape
    assert report.flops == (flops(before, x).executed, flops(net, x).executed)
    assert report.flops[1] < 0.75 * report.flops[0]
    for part in net.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.shape == (part.out_features, part.in_features)


@pytest.mark.parametrize("name", MODELS)
def test_reported_parameters_and_flops_are_the_counted_ones(name):
    torch.manual_seed(0)
    model = moezoo.create_model(name).eval()
    images = images_for(model, 2)
    before = parameters(model).total, flops(model, images).executed
    report = prune_hidden(model, 0.5, input=images)
    counted = flops(model, images)
    assert counted.executed == counted.analytic
    assert report.flops == (before[1], counted.executed)
    assert report.flops[1] < report.flops[0]
    assert report.parameters == (before[0], parameters(model).total)
    assert report.sparsity == pytest.approx(1 - report.parameters[1] / report.parameters[0])
    assert all(after == old - round(old / 2) for old, after in report.hidden.values())
    with moezoo.record_routing(model) as records, torch.no_grad():
        model(images)
    assert records


def test_zeros_in_place_of_removal_keep_the_shapes_and_reach_the_ratio():
    torch.manual_seed(0)
    layer = MoELayer(16, num_experts=4, hidden_dim=40, expert="glu").eval()
    small, tokens = copy.deepcopy(layer), torch.randn(9, 16)
    report = prune_hidden(layer, 0.25, remove=False)
    prune_hidden(small, 0.25)
    torch.testing.assert_close(layer(tokens), small(tokens))
    assert layer.experts.w_in.shape == (4, 80, 16)
    assert report.parameters[0] == report.parameters[1]
    zeros = sum(int((p == 0).sum()) for p in layer.experts.parameters())
    biases = 4 * (80 + 16)  # zero from the start, and ten units' of each expert are counted
    assert report.sparsity * report.parameters[0] == zeros - biases + 4 * 20
    assert (layer.experts.w_out == 0).all(1).sum(1).tolist() == [10] * 4


def test_the_documents_name_prunes_experts_alone():
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/digits")
    report = prune_expert_networks(model, 0.1)
    assert report.hidden
    assert all(".entity_moe.moe." in path and value == (128, 115) for path, value in report.hidden.items())
    assert model.blocks[0].mlp.fc1.out_features == 128
    assert prune_expert_networks(nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 3))).hidden == {"0": (20, 18)}


def test_experts_by_use_and_hidden_units_go_together():
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/digits").eval()
    images = torch.rand(3, *model.pretrained_cfg["input_size"])
    before = size_of(model).bytes
    prune_experts(model, keep=2, data=images)
    prune_hidden(model, 0.5)
    quantize(model)
    assert size_of(model).bytes < before / 5
    counted = flops(model, images)
    assert counted.executed == counted.analytic


def test_routers_low_rank_experts_and_shared_weights_are_left_alone():
    layer = MoELayer(16, num_experts=2, hidden_dim=20, expert="lora")
    with pytest.raises(ConfigError, match="no hidden units"):
        prune_hidden(layer, 0.5)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    net[2].weight = net[0].weight
    with pytest.raises(ConfigError, match="no hidden units"):
        prune_hidden(net, 0.5)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, True, "0.3", float("nan")])
def test_a_ratio_is_a_share(ratio):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="ratio"):
        prune_hidden(net, ratio)


def test_what_cannot_be_pruned_is_refused_and_one_unit_stays():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))
    with pytest.raises(ConfigError, match=r"'0\.x' names nothing.*There are 0"):
        prune_hidden(net, 0.5, layers="0.x")
    with pytest.raises(ConfigError, match="parts='expert'"):
        prune_hidden(net, 0.5, parts="expert")
    assert prune_hidden(net, 0.99).hidden == {"0": (3, 1)}
    with pytest.raises(ConfigError, match="prune first"):
        prune_hidden(quantize(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))), 0.5)
