"""Upcycling: MLPs become experts, dense checkpoints go on loading, and the model computes what it did."""

import copy
import logging
import pickle

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import nn

import moezoo
from moezoo.backbones.features import FeatureModel
from moezoo.backbones.params import split_parameters
from moezoo.backbones.upcycle import measure_gap
from moezoo.backbones.upcycled import UpcycledMLP
from moezoo.moe import MoELayer

BACKBONES = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "test_vit": {"img_size": 32},
    "deit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1, 1, 1, 1), "window_size": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "mixer_s32_224": {},
}
PLACES = {"convnext_atto": "stages.3.blocks.0.mlp", "mixer_s32_224": "blocks.7.mlp_channels"}
GRIDS = {"convnext_atto": (1, 1), "mixer_s32_224": (7, 7), "swin_tiny_patch4_window7_224": (2, 2)}


def dense(name, **kwargs):
    """A model whose weights hide nothing: no zero heads, no tiny layer scales."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **{**BACKBONES[name], **kwargs}).eval()
    for key, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        elif "gamma" in key:
            nn.init.ones_(p)
        else:
            nn.init.normal_(p, mean=float("norm" in key and "weight" in key), std=0.1)
    return model


def images(name, batch=2):
    torch.manual_seed(1)
    side = 224 if name == "mixer_s32_224" else BACKBONES[name].get("img_size", 32)
    return torch.randn(batch, 3, side, side)


@pytest.fixture
def vit():
    return dense("test_vit")


@pytest.mark.parametrize("name", BACKBONES)
def test_the_model_is_preserved_loads_its_dense_weights_and_shows_its_tokens(name):
    reference, model = dense(name), dense(name)
    assert moezoo.upcycle(model, "last", num_experts=4, top_k=2) is model
    (site,) = model.upcycle_report.sites
    assert site.name == PLACES.get(name, site.name)
    assert site.preserved
    assert model.upcycle_report.preserved
    x = images(name)
    assert measure_gap(model, reference, x) < 1e-5

    other = dense(name)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    router = model.get_submodule(site.name).moe.router.weight.clone()
    model.load_state_dict(other.state_dict(), strict=True)
    assert measure_gap(model, other, x) < 1e-5
    assert measure_gap(model, reference, x) > 1e-2
    assert torch.equal(model.get_submodule(site.name).moe.router.weight, router)

    with moezoo.record_routing(model) as records, torch.no_grad():
        model(x)
    (record,) = records
    assert record.name == f"{site.name}.moe"
    grid = GRIDS.get(name, (2, 2))
    assert record.grid == grid
    tokens = 2 * (grid[0] * grid[1] + record.prefix_tokens)
    assert record.routing.num_tokens == tokens
    assert record.prefix_tokens == getattr(model, "num_prefix_tokens", 0)


def test_last_half_is_the_default_and_keys_keep_their_block(vit):
    plain = list(vit.state_dict())
    moezoo.upcycle(vit, num_experts=2)
    assert [s.name for s in vit.upcycle_report.sites] == ["blocks.3.mlp", "blocks.4.mlp", "blocks.5.mlp"]
    keys = list(vit.state_dict())
    new = [k for k in keys if k not in plain]
    assert all(".mlp.moe." in key for key in new)
    assert [k for k in plain if k not in keys] == [
        f"blocks.{i}.mlp.{layer}.{p}" for i in (3, 4, 5) for layer in ("fc1", "fc2") for p in ("weight", "bias")
    ]


@pytest.mark.parametrize("where", [[1, "blocks.4.mlp"], ["blocks.1", -2], "blocks.[14].mlp"])
def test_indices_patterns_and_mlps_themselves_name_places(vit, where):
    moezoo.upcycle(vit, where, num_experts=2)
    assert [s.name for s in vit.upcycle_report.sites] == ["blocks.1.mlp", "blocks.4.mlp"]


def test_top_1_says_that_it_changes_the_model(vit, caplog):
    reference = copy.deepcopy(vit)
    with caplog.at_level(logging.INFO):
        moezoo.upcycle(vit, "last", num_experts=4)
    (site,) = vit.upcycle_report.sites
    assert not site.preserved
    assert "do not sum to one" in site.why
    assert site.why in caplog.text
    assert measure_gap(vit, reference, images("test_vit")) > 1e-3


def test_normalized_top_1_preserves_the_model_and_says_what_it_costs(vit, caplog):
    reference = copy.deepcopy(vit)
    with caplog.at_level(logging.INFO):
        moezoo.upcycle(vit, "last", num_experts=4, normalize=True)
    assert vit.upcycle_report.preserved
    assert "no task gradient" in caplog.text
    assert measure_gap(vit, reference, images("test_vit")) < 1e-5
    again = pickle.loads(pickle.dumps(copy.deepcopy(vit)))
    assert measure_gap(again, reference, images("test_vit")) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"top_k": 2, "capacity_factor": 1.0}, "drops tokens"),
        ({"top_k": 2, "normalize": False}, "do not sum to one"),
        ({"router": "soft"}, "mixtures of tokens"),
        ({"top_k": 2, "init": "noise"}, "noisy copies"),
        ({"top_k": 2, "init": "partition"}, "2 of the MLP's 4 parts"),
        ({"top_k": 4, "init": "partition", "partition": "importance"}, "its own hidden units"),
    ],
)
def test_what_cannot_preserve_the_model_is_reported(vit, arguments, why):
    reference = copy.deepcopy(vit)
    moezoo.upcycle(vit, "all", num_experts=4, **arguments)
    assert not vit.upcycle_report.preserved
    assert all(why in site.why for site in vit.upcycle_report.sites)
    assert measure_gap(vit, reference, images("test_vit", 4)) > 1e-4


def test_all_experts_without_normalizing_preserve_the_model(vit):
    reference = copy.deepcopy(vit)
    moezoo.upcycle(vit, "all", num_experts=3, top_k=3, normalize=False)
    assert vit.upcycle_report.preserved
    assert measure_gap(vit, reference, images("test_vit")) < 1e-5


@pytest.mark.parametrize("partition", ["contiguous", "random", "clustering"])
@pytest.mark.parametrize(("name", "parts"), [("test_vit", 6), ("eva02_tiny_patch14_224", 4), ("convnext_atto", 4)])
def test_all_parts_together_are_the_mlp(name, parts, partition):
    reference, model = dense(name), dense(name)
    moezoo.upcycle(model, "all", num_experts=parts, top_k=parts, init="partition", partition=partition)
    assert model.upcycle_report.preserved
    assert measure_gap(model, reference, images(name)) < 1e-5
    model.load_state_dict(reference.state_dict())
    assert measure_gap(model, reference, images(name)) < 1e-5
    experts = next(m for m in model.modules() if isinstance(m, MoELayer)).experts
    old = next(m for n, m in reference.named_modules() if n.endswith("mlp"))
    assert experts.hidden_dim * parts == old.fc2.weight.shape[1]


@pytest.mark.parametrize("partition", ["contiguous", "random", "clustering", "importance"])
def test_a_model_on_the_meta_device_takes_parts_there(partition):
    with torch.device("meta"):
        model = timm.create_model("test_vit", img_size=32)
    moezoo.upcycle(model, "all", num_experts=4, top_k=4, init="partition", partition=partition)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_training_lowers_the_loss_and_reaches_router_and_experts(vit):
    moezoo.upcycle(vit, "last_half", num_experts=4, top_k=2, init="noise", noise_std=0.1)
    vit.train()
    torch.manual_seed(2)
    x, y = images("test_vit", 8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3)
    losses = []
    for step in range(12):
        loss = nn.functional.cross_entropy(vit(x), y) + moezoo.aux_loss(vit)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(p.grad is not None for p in vit.parameters())
            assert vit.blocks[5].mlp.moe.router.weight.grad.abs().max() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_auxiliary_loss_covers_every_layer_of_the_last_forward_only(vit):
    moezoo.upcycle(vit, "all", num_experts=4, top_k=2)
    assert moezoo.aux_loss(vit).item() == 0
    vit.train()
    vit(images("test_vit"))
    once = moezoo.aux_loss(vit)
    assert once.item() > 0
    vit(images("test_vit"))
    torch.testing.assert_close(moezoo.aux_loss(vit), once)


def test_its_own_state_dict_loads_into_another_upcycled_model(vit):
    other = copy.deepcopy(vit)
    moezoo.upcycle(vit, "all", num_experts=3, top_k=2, init="noise")
    moezoo.upcycle(other, "all", num_experts=3, top_k=2)
    other.load_state_dict(vit.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(vit.parameters(), other.parameters(), strict=True))
    x = images("test_vit")
    assert torch.equal(vit(x), other(x))


def test_an_incomplete_dense_checkpoint_does_not_load(vit):
    state = copy.deepcopy(vit.state_dict())
    moezoo.upcycle(vit, "last", num_experts=3)
    del state["blocks.5.mlp.fc2.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.5\.mlp\.moe\.experts\.w_out"):
        vit.load_state_dict(state)


def test_copies_and_pickles_load_dense_weights_of_their_own(vit):
    reference = copy.deepcopy(vit)
    moezoo.upcycle(vit, "last", num_experts=3, top_k=2, init="noise")
    before = copy.deepcopy(vit.state_dict())
    for twin in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        twin.blocks[5].mlp.init = moezoo.moe.upcycling.ExpertInit()
        twin.load_state_dict(reference.state_dict())
        assert measure_gap(twin, reference, images("test_vit")) < 1e-5
    assert all(torch.equal(before[k], v) for k, v in vit.state_dict().items())
    ema = ModelEmaV3(vit, decay=0.5)
    ema.update(vit)
    assert torch.equal(ema.module(images("test_vit")), vit(images("test_vit")))


def test_roles_groups_and_freezing_know_the_experts(vit):
    moezoo.upcycle(vit, "last", num_experts=3)
    moe = {id(p) for p in vit.blocks[5].mlp.parameters()}
    assert {id(p) for p in split_parameters(vit)["moe"]} == moe
    moezoo.freeze_backbone(vit)
    trainable = {n for n, p in vit.named_parameters() if p.requires_grad}
    assert trainable == {f"blocks.5.mlp.{n}" for n, _ in vit.blocks[5].mlp.named_parameters()} | {
        "head.weight",
        "head.bias",
    }
    vit.requires_grad_(True)
    rate = {id(p): g["lr_scale"] for g in param_groups_layer_decay(vit, layer_decay=0.5) for p in g["params"]}
    assert {rate[i] for i in moe} == {rate[id(vit.blocks[5].attn.qkv.weight)]}


def test_features_and_checkpointing_go_through_the_experts(vit):
    reference = copy.deepcopy(vit)
    moezoo.upcycle(vit, "all", num_experts=3, top_k=2)
    x = images("test_vit")
    maps, wanted = (FeatureModel(copy.deepcopy(m), (0, 5))(x) for m in (vit, reference))
    assert [m.shape for m in maps] == [m.shape for m in wanted]
    for a, b in zip(maps, wanted, strict=True):
        torch.testing.assert_close(a, b)

    vit.train()
    grads = []
    for enable in (False, True):
        vit.set_grad_checkpointing(enable)
        vit.zero_grad()
        (vit(x).square().mean() + moezoo.aux_loss(vit)).backward()
        grads.append([p.grad.clone() for p in vit.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_dropouts_of_the_mlp_stay_where_they_were():
    model = dense("test_vit", proj_drop_rate=0.25)
    moezoo.upcycle(model, "last", num_experts=2, top_k=2)
    mlp = model.blocks[5].mlp
    assert isinstance(mlp, UpcycledMLP)
    assert mlp.moe.experts.dropout == 0.25
    assert mlp.dense.out_dropout == 0.25
    mlp.train()
    out = mlp(torch.randn(64, 5, 64))
    assert 0.15 < (out == 0).float().mean() < 0.35


def test_half_precision_and_training_mode_are_kept():
    model = dense("test_vit").to(torch.bfloat16).train()
    moezoo.upcycle(model, "last", num_experts=2, top_k=2)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(m.training for m in model.modules())
