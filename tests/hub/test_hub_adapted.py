"""Stored weights adapted to other classes, channels and image sizes, as timm adapts a backbone's own."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv

import moezoo
from moezoo.backbones.adapt import adapt, adapt_channels
from moezoo.backbones.inject import adapters_of
from moezoo.errors import WeightsCorrupted, WeightsMismatch

ADAPTER = {"expert_dim": 8, "mlp_ratio": 0.5, "num_experts": 2, "num_experts_shared": 1}
VIT = {**ADAPTER, "img_size": 32, "backbone_args": {"patch_size": 8, "depth": 2}}
SWIN_ARGS = {"embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
SWIN = {**ADAPTER, "img_size": 32, "backbone_args": SWIN_ARGS}
RESNET = {**ADAPTER, "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8}}


def store(folder, name, **overrides):
    """A saved model whose every tensor was moved away from its initial value, as training does; its stored name."""
    torch.manual_seed(3)
    model = moezoo.create_model(name, **{"num_classes": 5, **overrides})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = [f"label {i}" for i in range(model.num_classes)]
    moezoo.save_pretrained(model, folder, label_names=labels or None)
    return f"local-dir:{folder}", model.eval()


def others(model, *prefixes):
    return {key: value for key, value in model.state_dict().items() if not key.startswith(prefixes)}


def assert_same(one, other):
    assert list(one) == list(other)
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_another_number_of_classes_gets_a_new_head_and_says_so_in_one_line(tmp_path, caplog):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **VIT)
    torch.manual_seed(7)
    fresh = moezoo.create_model("entity_moe/test_vit2", **VIT, num_classes=3)
    torch.manual_seed(7)
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model(name, pretrained=True, num_classes=3).eval()
    assert_same(others(model, "head."), others(stored, "head."))
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert model.label_names is None
    assert model.weights_origin == name
    assert model.moezoo_config.num_classes == 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{name}: stored weights adapted: num_classes 5 to 3 (a new head)"]


def test_the_stored_number_of_classes_keeps_head_labels_and_silence(tmp_path, caplog):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **VIT)
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model(name, pretrained=True, num_classes=5, drop_rate=0.1)
    assert_same(model.state_dict(), stored.state_dict())
    assert model.label_names == tuple(f"label {i}" for i in range(5))
    assert caplog.records == []


@pytest.mark.parametrize("case", [("test_vit2", VIT), ("swin_tiny", SWIN), ("resnet50", RESNET)], ids=lambda c: c[0])
def test_no_classes_give_the_stored_models_features(tmp_path, case):
    arch, overrides = case
    name, stored = store(tmp_path, f"entity_moe/{arch}", **overrides)
    model = moezoo.create_model(name, pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    want = stored.forward_head(stored.forward_features(images), pre_logits=True)
    assert torch.equal(model(images), want)
    assert model.label_names is None


@pytest.mark.parametrize("case", [("test_vit2", VIT), ("swin_tiny", SWIN), ("resnet50", RESNET)], ids=lambda c: c[0])
@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (3, 4), (2, 3)])
def test_other_channels_see_what_the_stored_model_sees(tmp_path, case, old, new):
    arch, overrides = case
    name, stored = store(tmp_path, f"entity_moe/{arch}", **overrides, in_chans=old)
    model = moezoo.create_model(name, pretrained=True, in_chans=new).eval()
    conv = stored.pretrained_cfg["first_conv"] + ".weight"
    assert_same(others(model, conv), others(stored, conv))
    grey = torch.randn(2, 1, 32, 32)
    if (old, new) != (2, 3):  # channels of unequal weight: an even mix of two is no even mix of three
        weight = stored.state_dict()[conv]
        got = model.state_dict()[conv]
        if old == 3:
            assert torch.equal(got, adapt_input_conv(new, weight))
        if new in (1, old) or old == 1:
            torch.testing.assert_close(model(grey.expand(-1, new, -1, -1)), stored(grey.expand(-1, old, -1, -1)))
    assert model(grey.expand(-1, new, -1, -1)).shape == (2, 5)
    assert model.pretrained_cfg["input_size"][0] == new


@pytest.mark.parametrize("new", [1, 2, 3, 4, 6, 7])
def test_channels_are_adapted_by_timms_rule(new):
    weight = torch.randn(4, 3, 5, 5)
    assert torch.equal(adapt_channels(weight, 3, new), adapt_input_conv(new, weight))
    if new == 1:  # a stem that moves 2 x 2 pixels into channels first
        deep = torch.randn(4, 12, 3, 3)
        assert torch.equal(adapt_channels(deep, 3, 1), adapt_input_conv(1, deep))


@pytest.mark.parametrize("size", [48, (64, 32), (16, 64)], ids=str)
def test_another_size_resamples_a_vits_positions(tmp_path, size):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **VIT)
    model = moezoo.create_model(name, pretrained=True, img_size=size).eval()
    assert_same(others(model, "pos_embed"), others(stored, "pos_embed"))
    sides = (size, size) if isinstance(size, int) else size
    stored.set_input_size(sides)
    assert torch.equal(model.pos_embed, stored.pos_embed)
    images = torch.randn(2, 3, *sides)
    assert torch.equal(model(images), stored(images))
    assert model.pretrained_cfg["input_size"] == (3, *sides)


def test_the_same_number_of_positions_in_another_shape_is_resampled_too(tmp_path):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **{**VIT, "img_size": (16, 64)})
    model = moezoo.create_model(name, pretrained=True, img_size=(64, 16))
    assert model.pos_embed.shape == stored.pos_embed.shape
    assert not torch.equal(model.pos_embed, stored.pos_embed)


@pytest.mark.parametrize("size", [16, 24, 64])
def test_another_size_gives_swin_the_windows_and_tables_timm_gives_it(tmp_path, size):
    """Small images shrink windows, so that their tables are interpolated; large ones keep windows and tables."""
    name, stored = store(tmp_path, "entity_moe/swin_tiny", **SWIN)
    model = moezoo.create_model(name, pretrained=True, img_size=size).eval()
    added = tuple(adapters_of(stored))
    reference = timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": others(stored, *added), "num_classes": 5, "hf_hub_id": None},
        num_classes=5,
        img_size=size,
        **SWIN_ARGS,
    )
    tables = [key for key in reference.state_dict() if "relative_position_bias_table" in key]
    changed = {model.state_dict()[key].shape != stored.state_dict()[key].shape for key in tables}
    assert (True in changed) == (size < 32)
    assert_same(others(model, *added), reference.state_dict())
    for path in added:
        assert_same(model.get_submodule(path).state_dict(), stored.get_submodule(path).state_dict())
    assert model(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_a_convolutional_network_takes_another_size_as_it_is(tmp_path):
    name, stored = store(tmp_path, "entity_moe/resnet50", **RESNET)
    model = moezoo.create_model(name, pretrained=True, img_size=64)
    assert_same(model.state_dict(), stored.state_dict())
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)


def test_the_default_size_said_aloud_changes_nothing(tmp_path, caplog):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **{**VIT, "img_size": None})
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model(name, pretrained=True, img_size=160)
    assert_same(model.state_dict(), stored.state_dict())
    assert caplog.records == []


def test_everything_at_once_and_as_features(tmp_path, caplog):
    name, _ = store(tmp_path, "entity_moe/test_vit2", **VIT)
    changes = {"num_classes": 7, "in_chans": 1, "img_size": 64}
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model(name, pretrained=True, **changes).eval()
    assert "num_classes 5 to 7 (a new head), in_chans 3 to 1, img_size (32, 32) to (64, 64)" in caplog.text
    images = torch.randn(2, 1, 64, 64)
    assert model(images).shape == (2, 7)
    features = moezoo.create_model(name, pretrained=True, features_only=True, in_chans=1, img_size=64).eval()
    want = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True, norm=False)
    assert all(torch.equal(a, b) for a, b in zip(features(images), want, strict=True))
    moezoo.save_pretrained(model, tmp_path / "again")
    again = moezoo.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("more", [{}, {"num_classes": 3}, {"img_size": 64, "in_chans": 1}], ids=str)
def test_any_other_difference_is_a_mismatch_as_ever(tmp_path, more):
    name, _ = store(tmp_path, "entity_moe/test_vit2", **VIT)
    with pytest.raises(WeightsMismatch, match="saved with num_experts=2, the model has num_experts=4"):
        moezoo.create_model(name, pretrained=True, num_experts=4, **more)
    with pytest.raises(WeightsMismatch, match=r"patch_embed\.proj\.weight"):
        moezoo.create_model(name, pretrained=True, backbone_args={"patch_size": 4, "depth": 2}, **more)


def test_a_head_that_timm_cannot_find_once_it_is_gone_can_be_left_out(tmp_path):
    """``get_classifier`` of this architecture raises without classes."""
    name, stored = store(tmp_path, "entity_moe/efficientvit_m0", **ADAPTER)
    model = moezoo.create_model(name, pretrained=True, num_classes=0).eval()
    assert_same(model.state_dict(), others(stored, "head."))


def test_a_backbone_that_cannot_be_resized_says_so_by_field(tmp_path):
    name, _ = store(tmp_path, "entity_moe/pit_ti_224", **ADAPTER, img_size=64)
    with pytest.raises(WeightsMismatch, match=r"^img_size=\(96, 96\) is not possible .*pos_embed"):
        moezoo.create_model(name, pretrained=True, img_size=96)
    with pytest.raises(WeightsMismatch, match=r"^img_size="):
        moezoo.create_model(name, pretrained=True, img_size=96, num_classes=3, in_chans=1)
    assert moezoo.create_model(name, pretrained=True, num_classes=3, in_chans=1).num_classes == 3


@pytest.mark.parametrize("first_conv", [None, "patch_embed", "stranger"])
def test_an_input_layer_that_is_no_convolution_says_so_by_field_and_leaves_the_model(first_conv):
    donor = moezoo.create_model("entity_moe/test_vit2", **VIT)
    model = moezoo.create_model("entity_moe/test_vit2", **VIT, in_chans=1)
    donor.pretrained_cfg = {**donor.pretrained_cfg, "first_conv": first_conv}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsMismatch, match=r"^in_chans=1 is not possible"):
        adapt(donor, model)
    assert_same(model.state_dict(), before)


def test_the_hash_is_checked_before_anything_is_adapted(tmp_path):
    name, _ = store(tmp_path, "entity_moe/test_vit2", **VIT)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsCorrupted, match="sha256"):
        moezoo.create_model(name, pretrained=True, num_classes=3)


def test_a_registered_name_takes_classes_channels_and_size_of_the_stored_model_unless_given(tmp_path):
    name, stored = store(tmp_path, "entity_moe/digits", num_classes=4, img_size=32)
    model = moezoo.create_model("entity_moe/digits", pretrained=name)
    assert_same(model.state_dict(), stored.state_dict())
    assert len(model.label_names) == 4
    assert model.moezoo_config == stored.moezoo_config
    given = moezoo.create_model("entity_moe/digits", pretrained=name, num_classes=10, img_size=16).eval()
    assert given(torch.randn(1, 1, 16, 16)).shape == (1, 10)
    assert given.label_names is None
    assert torch.equal(given.blocks[3].entity_moe.moe.experts.w_in, stored.blocks[3].entity_moe.moe.experts.w_in)


def test_fresh_weights_of_a_stored_configuration_need_no_adapting(tmp_path):
    name, _ = store(tmp_path, "entity_moe/test_vit2", **VIT)
    (tmp_path / "model.safetensors").unlink()
    model = moezoo.create_model(name, num_classes=3, in_chans=1, img_size=64)
    assert model.weights_origin == "fresh"
    assert model.label_names is None


def test_a_configuration_that_lies_about_the_file_is_a_mismatch(tmp_path):
    name, _ = store(tmp_path, "entity_moe/test_vit2", **VIT)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["config"]["num_classes"], content["label_names"] = 12, None
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsMismatch, match="look at num_classes"):
        moezoo.create_model(name, pretrained=True, num_classes=3)


def test_the_file_itself_stays_as_it_was(tmp_path):
    name, stored = store(tmp_path, "entity_moe/test_vit2", **VIT)
    moezoo.create_model(name, pretrained=True, num_classes=3, in_chans=1, img_size=64)
    file = load_file(tmp_path / "model.safetensors")
    assert_same({key: file[key] for key in stored.state_dict()}, stored.state_dict())
