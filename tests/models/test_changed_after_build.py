"""What timm's own methods change after a model was built goes into the file, or is refused there."""

import pytest
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError

SLIM = {"expert_dim": 8, "mlp_ratio": 0.25}
VIT = {
    "img_size": 32,
    "num_classes": 5,
    "backbone_args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
}


@pytest.fixture
def vit():
    return moezoo.create_model("entity_moe/vit_tiny", **VIT, **SLIM).eval()


def back(model, folder):
    moezoo.save_pretrained(model, folder)
    return moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def reset(model):
    model.reset_classifier(7)


def replace(model):
    model.head = nn.Linear(32, 7)


@pytest.mark.parametrize("change", [reset, replace])
def test_another_head_is_saved_with_its_number_of_classes_and_without_the_old_labels(vit, tmp_path, change):
    vit.label_names = tuple("abcde")
    change(vit)
    model, images = back(vit, tmp_path), torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), vit(images))
    assert model.moezoo_config.num_classes == 7
    assert model.label_names is None
    moezoo.save_pretrained(vit, tmp_path, label_names=list("abcdefg"))


def test_no_head_is_saved_as_no_classes(vit, tmp_path):
    vit.reset_classifier(0)
    assert back(vit, tmp_path)(torch.randn(2, 3, 32, 32)).shape == (2, 32)


def test_another_image_size_is_saved(vit, tmp_path):
    vit.set_input_size(img_size=(64, 32))
    model, images = back(vit, tmp_path), torch.randn(2, 3, 64, 32)
    assert torch.equal(model(images), vit(images))
    assert model.moezoo_config.img_size == (64, 32)
    assert model.pretrained_cfg["input_size"] == (3, 64, 32)
    stored = moezoo.hub.read_stored(f"local-dir:{tmp_path}")
    assert stored.data["input_size"] == (3, 64, 32)


def test_another_pooling_is_refused_before_anything_is_written(vit, tmp_path):
    vit.reset_classifier(5, global_pool="avg")
    with pytest.raises(ConfigError, match=r"global_pool was changed from 'token' to 'avg'.*global_pool='avg'"):
        moezoo.save_pretrained(vit, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_features_only_model_is_refused(tmp_path):
    model = moezoo.create_model("entity_moe/vit_tiny", features_only=True, **VIT, **SLIM)
    with pytest.raises(InputError, match="features_only model has lost its head"):
        moezoo.save_pretrained(model, tmp_path)


def test_an_unchanged_model_keeps_its_configuration(vit, tmp_path):
    assert back(vit, tmp_path).moezoo_config == vit.moezoo_config
