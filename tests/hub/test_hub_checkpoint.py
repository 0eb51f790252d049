"""``checkpoint_path=``: the whole model's file, or its plain backbone's under a MoE that changes nothing."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import moezoo
from moezoo.errors import ConfigError, WeightsMismatch

SMALL = {"num_classes": 5, "img_size": 32}


@pytest.fixture
def backbone():
    torch.manual_seed(2)
    model = timm.create_model("test_vit2", **SMALL).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def file(backbone, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save_file(backbone.state_dict(), path)
    return path


@pytest.mark.parametrize("dense", [False, True])
def test_a_plain_backbones_file_leaves_the_moe_the_identity(backbone, file, caplog, dense):
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model("entity_moe/test_vit2", checkpoint_path=file, dense=dense, **SMALL).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), backbone(images))
    assert model.weights_origin == f"backbone-checkpoint:{file}"
    assert [r.getMessage() for r in caplog.records if str(file) in r.getMessage()] == [
        f"{file}: weights of the plain backbone under a fresh MoE, the identity at step 0"
    ]


def test_a_plain_backbone_of_transformers_is_taken_too(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    args = {**sizes, "model_type": "vit", "image_size": 32, "patch_size": 8}
    options = {"backbone_args": args, "num_classes": 3, "expert_dim": 8}
    model = moezoo.create_model("entity_moe/hf:a/b", **options)
    plain = {key: torch.randn_like(value) for key, value in model.state_dict().items() if ".entity_moe." not in key}
    path = tmp_path / "vit.safetensors"
    save_file(plain, path)
    again = moezoo.create_model("entity_moe/hf:a/b", checkpoint_path=path, **options)
    assert again.weights_origin == f"backbone-checkpoint:{path}"
    assert all(torch.equal(again.state_dict()[key], value) for key, value in plain.items())


def test_the_whole_models_file_is_the_models(tmp_path):
    model = moezoo.create_model("entity_moe/test_vit2", **SMALL)
    path = tmp_path / "whole.safetensors"
    save_file(model.state_dict(), path)
    again = moezoo.create_model("entity_moe/test_vit2", checkpoint_path=path, **SMALL)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert again.weights_origin == f"checkpoint:{path}"


def test_some_of_the_adapters_is_an_error_that_lists_the_rest(tmp_path):
    state = moezoo.create_model("entity_moe/test_vit2", **SMALL).state_dict()
    missing = [key for key in state if ".entity_moe.ffn." in key]
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in state.items() if key not in missing}, path)
    with pytest.raises(WeightsMismatch, match=rf"missing in the file \({len(missing)}\): .*entity_moe\.ffn"):
        moezoo.create_model("entity_moe/test_vit2", checkpoint_path=path, **SMALL)


def test_a_backbones_file_is_strict_about_the_backbone(file):
    state = load_file(file)
    del state["fc_norm.bias"]
    save_file({**state, "stranger": torch.zeros(1)}, file)
    with pytest.raises(WeightsMismatch) as caught:
        moezoo.create_model("entity_moe/test_vit2", checkpoint_path=file, **SMALL)
    assert "missing in the file (1): fc_norm.bias" in str(caught.value)
    assert "unexpected in the file (1): stranger" in str(caught.value)
    assert "entity_moe" not in str(caught.value)


def test_another_head_in_a_backbones_file_is_named(file):
    with pytest.raises(WeightsMismatch, match="look at num_classes"):
        moezoo.create_model("entity_moe/test_vit2", checkpoint_path=file, **{**SMALL, "num_classes": 4})


def test_trained_adapters_are_not_put_on_another_backbone(file, tmp_path):
    moezoo.save_pretrained(moezoo.create_model("entity_moe/test_vit2", **SMALL), tmp_path / "trained")
    with pytest.raises(ConfigError, match="leave pretrained out"):
        moezoo.create_model(f"local-dir:{tmp_path / 'trained'}", pretrained=True, checkpoint_path=file)
    model = moezoo.create_model(f"local-dir:{tmp_path / 'trained'}", checkpoint_path=file)
    assert model.weights_origin == f"backbone-checkpoint:{file}"
