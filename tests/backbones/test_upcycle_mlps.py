"""Recognising MLPs: every kind timm has, the order of gate and value, and transformers' image encoders."""

import copy

import pytest
import timm
import torch
from timm.layers import ConvMlp, GluMlp, Mlp, QuickGELU, SwiGLU, SwiGLUPacked
from timm.layers.activations import GELUTanh
from torch import nn
from transformers_models import MAKERS, make

import moezoo
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.mlps import DenseMLP, Refusal, recognise
from moezoo.backbones.upcycle import measure_gap
from moezoo.moe import MoELayer
from moezoo.moe.upcycling import ExpertInit, spread

KINDS = {
    "mlp": (Mlp(8, 24), "mlp", "gelu"),
    "mlp_without_bias": (Mlp(8, 24, bias=False), "mlp", "gelu"),
    "mlp_one_bias": (Mlp(8, 24, bias=(False, True), act_layer=nn.ReLU), "mlp", "relu"),
    "mlp_as_wide": (Mlp(8, 8, act_layer=nn.SiLU), "mlp", "silu"),
    "mlp_tanh": (Mlp(8, 24, act_layer=GELUTanh), "mlp", "gelu_tanh"),
    "mlp_quick": (Mlp(8, 24, act_layer=QuickGELU), "mlp", "quick_gelu"),
    "glu_gate_last": (GluMlp(8, 24, act_layer=nn.GELU), "glu", "gelu"),
    "glu_gate_first": (GluMlp(8, 24, act_layer=nn.SiLU, gate_last=False), "glu", "silu"),
    "swiglu": (SwiGLU(8, 24), "glu", "silu"),
    "swiglu_packed": (SwiGLUPacked(8, 24), "glu", "silu"),
    "conv": (ConvMlp(8, 24), "mlp", "relu"),
    "conv_glu": (GluMlp(8, 24, use_conv=True, act_layer=nn.SiLU), "glu", "silu"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_experts_made_of_an_mlp_compute_what_it_does(kind):
    module, expert, activation = KINDS[kind]
    conv = kind.startswith("conv")
    found = recognise(module, 4 if conv else 3)
    assert isinstance(found, DenseMLP)
    assert (found.expert, found.activation, found.channels_first) == (expert, activation, conv)
    assert set(found.keys) == set(module.state_dict())
    layer = MoELayer(8, num_experts=3, top_k=2, expert=expert, activation=activation, hidden_dim=found.hidden_dim)
    layer.experts.load_state_dict(spread(found.weights(module.state_dict()), 3, ExpertInit()))
    x = torch.randn(2, 8, 4, 4) if conv else torch.randn(2, 5, 8)
    out = layer(x.movedim(1, -1)).movedim(-1, 1) if conv else layer(x)
    torch.testing.assert_close(out, module.eval()(x))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Mlp(8, 24, norm_layer=nn.LayerNorm), "LayerNorm"),
        (Mlp(8, 24, act_layer=nn.Hardswish), "activation"),
        (
            nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Dropout(0.1), nn.Dropout(0.2), nn.Linear(24, 8)),
            "more than once",
        ),
        (nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8), nn.GELU()), "more than an MLP"),
    ],
)
def test_what_experts_cannot_compute_is_refused(module, reason):
    found = recognise(module, 3)
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_recognising_leaves_module_and_random_numbers_alone():
    module = Mlp(8, 24)
    state, mode = copy.deepcopy(module.state_dict()), module.training
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    recognise(module, 3)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert module.training == mode


def test_importance_draws_large_units_and_never_one_twice():
    torch.manual_seed(0)
    module = Mlp(8, 64)
    with torch.no_grad():
        module.fc2.weight[:, 32:] *= 1e-6
    weights = recognise(module, 3).weights(module.state_dict())
    made = spread(weights, 4, ExpertInit("partition", partition="importance"))
    drawn = [[int((module.fc1.weight == row).all(1).nonzero()) for row in expert] for expert in made["w_in"]]
    assert all(len(set(units)) == 16 and max(units) < 32 for units in drawn)
    assert len(set(map(tuple, drawn))) == 4


def test_noise_is_relative_to_each_matrix():
    torch.manual_seed(0)
    module = Mlp(64, 256)
    weights = recognise(module, 3).weights(module.state_dict())
    made = spread(weights, 2, ExpertInit("noise", noise_std=0.5))
    for name in ("w_in", "w_out"):
        noise = made[name] - getattr(weights, name)
        assert abs(noise.std() / getattr(weights, name).std() - 0.5) < 0.02
        assert not torch.equal(noise[0], noise[1])
    assert torch.equal(made["b_in"], weights.b_in.expand(2, -1))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("resnet", "segformer", "mae")])
def test_transformers_encoders_are_preserved_and_load_their_dense_weights(name):
    model = make(name)
    for key, p in model.named_parameters():
        if "gamma" in key or "layer_scale" in key:
            nn.init.ones_(p)
    reference = copy.deepcopy(model)
    moezoo.upcycle(model, "last", num_experts=3, top_k=2)
    path, part = vision_part(model)
    for site in model.upcycle_report.sites:
        assert site.preserved
        assert isinstance(model.get_submodule(site.name).moe, MoELayer)
        assert site.name.startswith(path)
    x = torch.randn(2, 3, *[min(side, 64) for side in moezoo.backbones.trace.model_input_size(part, None)[1:]])
    assert measure_gap(part, vision_part(reference)[1], x) < 1e-5
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.01 * torch.randn_like(p))
    assert measure_gap(part, vision_part(reference)[1], x) > 1e-4
    model.load_state_dict(reference.state_dict(), strict=True)
    assert measure_gap(part, vision_part(reference)[1], x) < 1e-5


def test_layers_of_a_block_that_is_no_mlp_itself_give_way_one_by_one():
    model = make("convnext")
    moezoo.upcycle(model, "last", num_experts=3, top_k=2)
    (site,) = model.upcycle_report.sites
    assert site.name.endswith("layers.0.pwconv1")
    block = model.get_submodule(site.name.rpartition(".")[0])
    assert isinstance(block.act, nn.Identity)
    assert isinstance(block.pwconv2, nn.Identity)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict(), strict=True)


def test_a_norm_before_the_mlp_stays_where_it_was():
    torch.manual_seed(0)
    model = timm.create_model("tiny_vit_5m_224", depths=(1, 1, 1, 1)).eval()
    reference = copy.deepcopy(model)
    moezoo.upcycle(model, "last", num_experts=2, top_k=2)
    (site,) = model.upcycle_report.sites
    kept = model.get_submodule(site.name).norm
    assert kept.weight.shape == reference.get_submodule(site.name).norm.weight.shape
    with torch.no_grad():
        reference.get_submodule(site.name).norm.weight.mul_(3)
    x = torch.randn(1, 3, 224, 224)
    assert measure_gap(model, reference, x) > 1e-3
    model.load_state_dict(reference.state_dict(), strict=True)
    assert measure_gap(model, reference, x) < 1e-5
