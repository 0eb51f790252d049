"""Models with token routing by name, from timm's weights, and saved with what their dials are set to."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import moezoo
from moezoo.backbones.timm_models import load_backbone_weights
from moezoo.backbones.tokens.routed_mlp import TokenRouting
from moezoo.errors import ConfigError, UnknownModelError

SIZE = {"img_size": 32, "num_classes": 5}
ARGS = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(**config):
    return moezoo.create_model("attention_routing/vit_small", **SIZE, backbone_args=ARGS, **config).eval()


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def routing_layers(model):
    return [name for name, m in model.named_modules() if isinstance(m, TokenRouting)]


def test_names_build_timms_model_and_variants_of_it():
    for size in ("tiny", "small", "base"):
        config = moezoo.model_config(f"attention_routing/vit_{size}")
        assert config.model_name == f"vit_{size}_patch16_224"
        assert config.budget == 1.0
        assert moezoo.is_model_pretrained(f"attention_routing/vit_{size}")
    plain = timm.create_model("vit_small_patch16_224", **SIZE, **ARGS).eval()
    variants = [("", 4, 1.0), (".last_half", 2, 1.0), (".routed", 4, None), (".cheap_compute", 4, 0.0)]
    for variant, layers, budget in [*variants, (".random_routing", 4, 1.0)]:
        model = moezoo.create_model(f"attention_routing/vit_small{variant}", **SIZE, backbone_args=ARGS).eval()
        assert len(routing_layers(model)) == layers
        assert model.blocks[-1].mlp.token_routing.moe.router.budget == budget
        model.load_state_dict(plain.state_dict(), strict=True)
        model.set_budget(1.0)
        assert torch.equal(model(IMAGES), plain(IMAGES))
    assert moezoo.is_model("attention_routing/eva02_tiny_patch14_224")
    assert not moezoo.is_model("attention_routing/eva02_tiny_patch14_2244")
    with pytest.raises(UnknownModelError, match="attention_routing/vit_small"):
        moezoo.create_model("attention_routing/vit_smal")
    with pytest.raises(ConfigError, match="Did you mean: small_ratio"):
        vit(small_ration=0.1)
    open_one = moezoo.create_model("attention_routing/test_vit", img_size=32, small_ratio=0.5, inject_layers=[0, -1])
    assert routing_layers(open_one) == [f"blocks.{i}.mlp.token_routing" for i in (0, 5)]


def test_timms_weights_arrive_bit_for_bit_and_the_small_mlps_are_made_from_them(tmp_path, monkeypatch):
    donor = moved(timm.create_model("test_vit"))  # for 1000 classes, at its own size
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    config = moezoo.model_config("attention_routing/test_vit", num_classes=None)
    model = moezoo.create_model("attention_routing/test_vit").eval()
    load_backbone_weights(model, config, tmp_path / "model.safetensors")
    size = donor.pretrained_cfg["input_size"]
    images = torch.randn(2, *size)
    assert torch.equal(model(images), donor(images))
    columns = donor.blocks[0].mlp.fc2.weight.t()
    small = model.blocks[0].mlp.token_routing.small
    assert all(any(torch.equal(c, column) for column in columns) for c in small.fc2.weight.t())

    by_path = moezoo.create_model("attention_routing/test_vit", checkpoint_path=tmp_path / "model.safetensors").eval()
    assert by_path.weights_origin.startswith("backbone-checkpoint:")
    assert torch.equal(by_path(images), donor(images))
    by_path.set_budget(0.3)
    model.set_budget(0.3)
    assert torch.equal(by_path(images), model(images))


@torch.no_grad()
def test_saved_models_come_back_with_their_dials(tmp_path):
    model = moved(vit(small_ratio=0.5))
    model.set_budget(0.5)
    moezoo.save_pretrained(model, tmp_path / "built")
    again = moezoo.create_model(f"local-dir:{tmp_path / 'built'}", pretrained=True).eval()
    assert again.moezoo_config.budget == 0.5
    assert torch.equal(again(IMAGES), model(IMAGES))
    again.set_budget(1.0)
    assert not torch.equal(again(IMAGES), model(IMAGES))

    plain = timm.create_model("vit_tiny_patch16_224", **SIZE, **ARGS).eval()
    injected = moved(moezoo.inject_moe(plain, [0, -1], router="threshold", small_ratio=0.3, score="learned"))
    injected.set_threshold(0.49)
    injected.reset_classifier(3)
    moezoo.save_pretrained(injected, tmp_path / "injected", backbone_args=ARGS)
    again = moezoo.create_model(f"local-dir:{tmp_path / 'injected'}", pretrained=True).eval()
    assert again.moezoo_name == "attention_routing/vit_tiny_patch16_224"
    assert (again.moezoo_config.threshold, again.moezoo_config.budget) == (0.49, None)
    assert torch.equal(again(IMAGES), injected(IMAGES))
    again.set_threshold(None)
    again.set_budget(None)
    moezoo.save_pretrained(again, tmp_path / "trained")
    trained = moezoo.create_model(f"local-dir:{tmp_path / 'trained'}", pretrained=True).eval()
    assert (trained.moezoo_config.threshold, trained.moezoo_config.budget) == (None, None)
    assert torch.equal(trained(IMAGES), again(IMAGES))


@torch.no_grad()
def test_features_follow_the_dial():
    features = vit(features_only=True)
    full = features(IMAGES)
    assert [f.shape for f in full] == [(2, 32, 4, 4)] * 3  # the last three
    moezoo.set_budget(features, 0.0)
    assert not torch.equal(features(IMAGES)[-1], full[-1])
    moezoo.set_budget(features, 1.0)
    assert torch.equal(features(IMAGES)[-1], full[-1])
