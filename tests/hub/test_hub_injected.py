"""Models that users injected themselves: saved with a configuration that is proved to rebuild them, or refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import prune_experts

SLIM = {"expert_dim": 8, "mlp_ratio": 0.25, "num_experts": 2, "num_experts_shared": 1}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def back(model, folder, **kwargs):
    moezoo.save_pretrained(model, folder, **kwargs)
    return moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.mark.parametrize(
    ("arch", "where", "size", "kwargs"),
    [
        ("test_vit2", "last", (3, 48, 48), {"img_size": 48, "num_classes": 5}),
        ("test_vit2", [0, -1], (1, 160, 160), {"in_chans": 1, "global_pool": "avg"}),
        ("test_efficientnet", None, (3, 64, 64), {"num_classes": 3}),
        ("test_resnet", (1, 0), (2, 64, 64), {"in_chans": 2, "num_classes": 0}),
    ],
)
def test_an_injected_timm_model_comes_back_bit_for_bit(arch, where, size, kwargs, tmp_path):
    model = timm.create_model(arch, **kwargs)
    moved(moezoo.inject_moe(model, where, **SLIM))
    again = back(model, tmp_path, label_names=None)
    images = torch.randn(2, *size)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert list(again.state_dict()) == list(model.state_dict())
    assert again.moezoo_name == f"entity_moe/{arch}"


def test_what_a_backbone_was_created_with_is_asked_for_where_it_shows_nowhere_else(tmp_path):
    args = {"patch_size": 8, "num_heads": 4}
    model = timm.create_model("test_vit2", img_size=32, num_classes=5, **args)
    moved(moezoo.inject_moe(model, "last", **SLIM))
    with pytest.raises(InputError, match=r"cannot be rebuilt.*patch_embed\.proj\.weight.*backbone_args="):
        moezoo.save_pretrained(model, tmp_path / "a")
    # The heads of attention change no shape: only what the model computes tells.
    with pytest.raises(InputError, match=r"same weights and computes something else.*backbone_args="):
        moezoo.save_pretrained(model, tmp_path / "a", backbone_args={"patch_size": 8})
    assert not (tmp_path / "a").exists()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(model, tmp_path / "a", backbone_args=args)(images), model(images))


def test_a_backbone_that_does_not_say_what_it_is_can_be_named(tmp_path):
    model = timm.create_model("test_vit2", img_size=32, num_classes=5)
    moved(moezoo.inject_moe(model, "last", **SLIM))
    model.pretrained_cfg = model.default_cfg = {}
    with pytest.raises(InputError, match="pass backbone='<timm architecture>'"):
        moezoo.save_pretrained(model, tmp_path / "a")
    with pytest.raises(InputError, match="pass backbone="):
        moezoo.save_pretrained(model, tmp_path / "a", backbone="test_vit9")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(model, tmp_path / "a", backbone="test_vit2")(images), model(images))
    with pytest.raises(ConfigError, match="knows its backbone"):
        moezoo.save_pretrained(moezoo.create_model("entity_moe/digits"), tmp_path / "b", backbone="test_vit2")


def test_an_injected_classifier_of_transformers_comes_back_bit_for_bit(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    plain = ViTForImageClassification(ViTConfig(**VIT, num_labels=3))
    model = moved(moezoo.inject_moe(plain, "vit.layers.1" if False else [-1], **SLIM))
    again = back(model, tmp_path, label_names=["a", "b", "c"])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(pixel_values=images).logits)
    assert again.label_names == ("a", "b", "c")
    assert not (tmp_path / "preprocessor_config.json").exists()  # nobody has said how its images are prepared
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    again = back(model, tmp_path, backbone="someone/vit", backbone_args={"image_processor": processor})
    assert again.pretrained_cfg["std"] == (0.25,) * 3
    assert again.moezoo_name == "entity_moe/hf:someone/vit"
    assert (tmp_path / "preprocessor_config.json").exists()


def test_surgery_heads_and_training_mode_survive_and_the_random_state_stays(tmp_path):
    model = timm.create_model("test_vit2", img_size=32, num_classes=5)
    moezoo.inject_moe(model, "all", **{**SLIM, "num_experts": 4})
    model.reset_classifier(7)
    moved(model).train()
    state = torch.get_rng_state()
    again = back(model, tmp_path)
    assert model.training
    torch.set_rng_state(state)
    moezoo.save_pretrained(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert again(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    prune_experts(model, keep=2, data=torch.randn(2, 3, 32, 32))
    with pytest.raises(InputError, match="cannot be rebuilt"):
        moezoo.save_pretrained(model, tmp_path)


def test_models_that_no_configuration_rebuilds_are_refused_with_a_way_out(tmp_path):
    upcycled = moezoo.upcycle(timm.create_model("test_vit2", img_size=32), "last", num_experts=2)
    with pytest.raises(InputError, match="no moezoo_config"):
        moezoo.save_pretrained(upcycled, tmp_path / "a")
    ours = moezoo.create_model("entity_moe/test_vit2", img_size=32, **SLIM)
    moezoo.upcycle(ours, "last", num_experts=2)
    with pytest.raises(InputError, match=r"upcycled model \('blocks\.\d\.mlp'.*safetensors\.torch\.save_model"):
        moezoo.save_pretrained(ours, tmp_path / "a")
    wrapped = nn.Sequential(moezoo.inject_moe(timm.create_model("test_vit2", img_size=32), **SLIM))
    with pytest.raises(InputError, match="Sequential has no moezoo_config"):
        moezoo.save_pretrained(wrapped, tmp_path / "a")
    assert not (tmp_path / "a").exists()
