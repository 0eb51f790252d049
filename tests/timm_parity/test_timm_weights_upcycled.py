"""A backbone's pretrained weights in the experts of a named model."""

import logging

import pytest
import torch

import moezoo
from moezoo.backbones.upcycle import measure_gap
from moezoo.errors import WeightsMismatch

SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2]}


def test_the_model_is_the_pretrained_backbone_at_step_0(publish, tmp_path, caplog):
    dense = publish("test_vit")
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model("vmoe/test_vit", pretrained=True, cache_dir=tmp_path).eval()
    images = torch.randn(2, 3, 160, 160)
    assert measure_gap(model, dense, images) < 1e-5
    assert "in every expert: at step 0 the model computes what the backbone does" in caplog.text
    assert model.weights_origin.startswith("backbone:test_vit")
    twin = moezoo.create_model("vmoe/test_vit.dense", pretrained=True, cache_dir=tmp_path, num_classes=0).eval()
    torch.testing.assert_close(twin(images), dense.forward_head(dense.forward_features(images), pre_logits=True))


def test_where_it_is_not_the_log_says_why(publish, tmp_path, caplog):
    publish("test_vit")
    with caplog.at_level(logging.INFO, "moezoo"):
        moezoo.create_model("soft_moe/test_vit", pretrained="backbone", cache_dir=tmp_path)
    assert "the model does not compute what the backbone does: the experts compute mixtures of tokens" in caplog.text


def test_a_missing_weight_of_an_mlp_is_an_error(publish, tmp_path):
    publish("test_vit", lambda state: {k: v for k, v in state.items() if k != "blocks.5.mlp.fc2.weight"})
    with pytest.raises(WeightsMismatch, match=r"blocks\.5\.mlp\.fc2\.weight"):
        moezoo.create_model("vmoe/test_vit", pretrained=True, cache_dir=tmp_path)


def test_swin_weights_of_other_windows_are_in_the_experts(publish, tmp_path):
    dense = publish("swin_small_patch4_window7_224", **SWIN)
    model = moezoo.create_model(
        "swin_moe/small",
        pretrained="backbone",
        cache_dir=tmp_path,
        backbone_args={"window_size": 12, **SWIN},
        moe_layers=[(1, 1)],
    )
    experts = model.layers[1].blocks[1].mlp.moe.experts
    want = dense.layers[1].blocks[1].mlp
    assert all(torch.equal(w, want.fc1.weight) for w in experts.w_in)
    assert all(torch.equal(w, want.fc2.weight) for w in experts.w_out)
    assert torch.equal(model.layers[0].blocks[0].mlp.fc1.weight, dense.layers[0].blocks[0].mlp.fc1.weight)
