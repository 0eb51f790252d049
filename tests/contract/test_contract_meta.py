"""Every registered model at its real size, on the meta device: nothing is allocated."""

import functools

import pytest
import torch
from contract_models import (
    answer,
    distinct_when_small,
    has_backbone,
    is_classifier,
    is_default,
    is_routed,
    is_upcycled,
    others_slow,
    routes_tokens,
    tells_identities,
)

import moezoo
from moezoo.backbones.create import create_backbone
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.inputs import example_shape
from moezoo.factory import build
from moezoo.moe import MoELayer
from moezoo.registry import model_config

NAMES = moezoo.list_models()
SIZES_ALONE = ("vmoe/vit_s", "vmoe/vit_b", "vmoe/vit_l", "soft_moe/vit_s", "soft_moe/vit_b", "swin_moe/")
SIZES_ALONE += ("vmoe/b", "vmoe/l", "vmoe/h", "soft_moe/b", "soft_moe/l", "soft_moe/h", "soft_moe/s14")
"""A ViT is a ViT: the smallest of these families stands for the others, whose parameters are counted elsewhere."""
ALIKE = [
    name
    for name in NAMES
    if (tells_identities(model_config(name)) and "/rgbnt201" not in name) or name.startswith(SIZES_ALONE)
]
"""One data set's backbone is the other's, and the small one is run for real elsewhere."""
DEFAULTS = [name for name in NAMES if is_default(name) and name not in ALIKE]
"""Every architecture once."""
SMALL_FIRST = sorted((n for n in NAMES if not n.startswith(SIZES_ALONE)), key=lambda n: "tiny" not in n)
VARIANTS = [
    name
    for name in distinct_when_small(SMALL_FIRST)
    if not (routes_tokens(config := model_config(name)) or tells_identities(config))
]
FAST = {*DEFAULTS, *VARIANTS}
"""What is run by default; variants that differ in how tokens are routed alone hold the same weights."""


@functools.cache
def on_meta(name):
    """Built once for all tests that look at it."""
    with torch.device("meta"):
        return moezoo.create_model(name).eval()


@pytest.mark.parametrize("name", others_slow(NAMES, FAST))
def test_real_size_shapes_keys_and_counts(name):
    model = on_meta(name)
    with torch.device("meta"):
        images = torch.empty(2, *example_shape(model))
    rows, columns = answer(model, images).shape
    assert rows == 2
    assert columns == model.moezoo_config.num_classes or not is_classifier(name)
    assert model.moezoo_name == name
    assert model.weights_origin == "fresh"
    layers = [m for m in model.modules() if isinstance(m, MoELayer)]
    assert bool(layers) == is_routed(model.moezoo_config)


@pytest.mark.parametrize(
    "name", others_slow([n for n in NAMES if has_backbone(n) and not is_upcycled(model_config(n))], FAST)
)
def test_adapters_are_all_that_is_added_to_a_backbone(name):
    model = on_meta(name)
    with torch.device("meta"):
        backbone = create_backbone(model.moezoo_config)
    added = adapters_of(model)
    child = ".token_routing." if routes_tokens(model.moezoo_config) else ".entity_moe."
    assert {k: v.shape for k, v in model.state_dict().items() if child not in k} == {
        k: v.shape for k, v in backbone.state_dict().items()
    }
    total = sum(p.numel() for p in model.parameters())
    adapters = sum(p.numel() for a in added.values() for p in a.parameters())
    assert total == adapters + sum(p.numel() for p in backbone.parameters())
    layers = [m for m in model.modules() if isinstance(m, MoELayer)]
    if routes_tokens(model.moezoo_config):
        blocks = len(model.blocks) // (2 if model.moezoo_config.inject_layers in ("last_half", "every2") else 1)
        assert len(added) == len(layers) == blocks
        assert all(layer.num_experts == 2 for layer in layers)
        return
    assert len(added) == len(_config(model)["inject_layers"]) > 0
    assert len(layers) == (0 if model.moezoo_config.dense else len(added))
    assert all(layer.num_experts == 4 and layer.top_k == 1 for layer in layers)


def _config(model):
    """SAM's sits on its encoder."""
    return getattr(model, "vision_encoder", model).entity_moe_config


@pytest.mark.parametrize("name", others_slow(NAMES, DEFAULTS))  # the maps are the backbone's, wherever adapters are
def test_real_size_features_match_feature_info(name):
    with torch.device("meta"):
        model = moezoo.create_model(name, features_only=True).eval()
        size = model.pretrained_cfg["input_size"]
        maps = model(torch.empty(2, *size))
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels()
    for m, reduction in zip(maps, info.reduction(), strict=True):
        assert m.shape[2:] == (-(-size[1] // reduction), -(-size[2] // reduction))


def test_active_parameters_equal_those_of_the_dense_twin_but_for_the_router():
    """The twin's MLP is as wide as what a token uses of the MoE."""
    config = moezoo.model_config("entity_moe/vit_small")
    with torch.device("meta"):
        moe = next(m for m in build(config).modules() if isinstance(m, MoELayer))
        twin = build(moezoo.model_config("entity_moe/vit_small.dense")).blocks[11].entity_moe.moe
    active = sum(p.numel() for p in moe.parameters()) - moe.inactive_parameters()
    routing = sum(p.numel() for p in moe.router.parameters()) + sum(p.numel() for p in moe.shared.gate.parameters())
    biases = moe.experts.b_out[0].numel() + moe.shared.b_out.numel() - twin.fc2.bias.numel()
    assert active - routing - biases == sum(p.numel() for p in twin.parameters())
