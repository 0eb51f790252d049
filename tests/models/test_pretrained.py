"""Pretrained weights of a backbone, through the real client and a loopback Hub."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save

import moezoo
from moezoo.errors import ConfigError, WeightsUnavailable

REPO = "timm/test_vit2.r160_in1k"


@pytest.fixture
def published(hub):
    """timm's second test ViT with random weights, published as timm publishes the real ones."""
    torch.manual_seed(5)
    model = timm.create_model("test_vit2").eval()
    torch.nn.init.normal_(model.head.weight)
    hub.put(REPO, {"model.safetensors": save(model.state_dict())}, lfs=("model.safetensors",))
    return model


def test_the_backbones_weights_arrive_and_step_zero_is_the_backbone(published, tmp_path, caplog):
    caplog.set_level(logging.INFO, "moezoo")
    model = moezoo.create_model("entity_moe/test_vit2", pretrained=True, cache_dir=tmp_path).eval()
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(model(images), published(images))
    assert model.weights_origin == "backbone:test_vit2.r160_in1k"
    assert "identity at step 0" in caplog.text


def test_a_warm_cache_serves_without_the_hub(published, hub, tmp_path):
    first = moezoo.create_model("entity_moe/test_vit2", pretrained="backbone", cache_dir=tmp_path)
    hub.reset()
    second = moezoo.create_model("entity_moe/test_vit2", pretrained=True, cache_dir=tmp_path)
    assert torch.equal(first.head.weight, second.head.weight)


def test_weights_are_adapted_to_channels_size_and_classes(published, tmp_path):
    model = moezoo.create_model(
        "entity_moe/test_vit2", pretrained=True, cache_dir=tmp_path, in_chans=1, img_size=64, num_classes=5
    ).eval()
    assert torch.equal(model.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    torch.testing.assert_close(model.patch_embed.proj.weight, published.patch_embed.proj.weight.sum(1, keepdim=True))
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 5)


def test_features_carry_the_pretrained_weights(published, tmp_path):
    features = moezoo.create_model(
        "entity_moe/test_vit2", pretrained=True, features_only=True, cache_dir=tmp_path
    ).eval()
    images = torch.randn(1, 3, 160, 160)
    want = published.forward_intermediates(images, indices=[7], intermediates_only=True)[0]
    assert torch.equal(features(images)[-1], want)


def test_a_plain_timm_state_dict_loads_and_only_the_moe_is_missing(published):
    model = moezoo.create_model("entity_moe/test_vit2").eval()
    missing, unexpected = model.load_state_dict(published.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".entity_moe." in key for key in missing)
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(model(images), published(images))


def test_weights_that_cannot_be_had_are_an_error_never_random(hub, tmp_path):
    with pytest.raises(WeightsUnavailable, match=REPO):
        moezoo.create_model("entity_moe/test_vit2", pretrained=True, cache_dir=tmp_path)
    with pytest.raises(WeightsUnavailable, match="no moezoo weights"):
        moezoo.create_model("entity_moe/test_vit2", pretrained="full")
    with pytest.raises(WeightsUnavailable, match="no pretrained weights"):
        moezoo.create_model("entity_moe/digits", pretrained=True)
    with pytest.raises(ConfigError, match="Did you mean 'backbone'"):
        moezoo.create_model("entity_moe/test_vit2", pretrained="backbon")


def test_names_said_to_have_weights_have_them_in_timm():
    names = moezoo.list_models(pretrained=True)
    assert names == moezoo.list_pretrained()
    assert "entity_moe/digits" not in names
    for name in names:
        assert moezoo.is_model_pretrained(name)
        arch = moezoo.model_config(name).model_name
        assert arch.startswith("hf:") or timm.models.is_model_pretrained(arch)
        assert moezoo.get_pretrained_cfg(name).has_weights


def test_checkpoint_path_is_strict(tmp_path):
    model = moezoo.create_model("entity_moe/digits")
    moezoo.save_pretrained(model, tmp_path)
    file = next(p for p in tmp_path.iterdir() if p.name == "model.safetensors")
    again = moezoo.create_model("entity_moe/digits", checkpoint_path=file)
    assert torch.equal(again.head.weight, model.head.weight)
    with pytest.raises(moezoo.errors.WeightsMismatch, match="num_experts"):
        moezoo.create_model("entity_moe/digits", checkpoint_path=file, num_experts=8)
