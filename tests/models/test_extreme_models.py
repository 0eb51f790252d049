"""Whole models at the edges: a lone token, almost no room for tokens, no classes, names out of nowhere."""

from __future__ import annotations

import pytest
import torch

import moezoo
from moezoo.errors import ConfigError, UnknownModelError
from moezoo.moe import MoELayer


def test_a_name_of_no_family_gets_three_suggestions():
    with pytest.raises(UnknownModelError, match=r"'vit_moe_tyni'\. Did you mean: [^,?]+, [^,?]+, [^,?]+\?"):
        moezoo.create_model("vit_moe_tyni")


def test_no_classes_mean_features_and_fewer_are_refused():
    model = moezoo.create_model("entity_moe/test_vit", num_classes=0)
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, model.num_features)
    with pytest.raises(ConfigError, match="num_classes=-1"):
        moezoo.create_model("entity_moe/test_vit", num_classes=-1)


def test_one_image_of_one_token_trains_and_idle_experts_get_zero_gradients():
    model = moezoo.create_model(
        "entity_moe/test_vit",
        img_size=4,
        global_pool="avg",
        num_experts=16,
        backbone_args={"patch_size": 4, "class_token": False, "reg_tokens": 0},
    )
    with moezoo.record_routing(model) as records:
        output = model(torch.randn(1, 1, 4, 4))
    assert [record.routing.num_tokens for record in records] == [1]
    (output.square().sum() + moezoo.aux_loss(model)).backward()
    assert output.shape == (1, 10)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_tokens_without_room_keep_their_values_and_are_counted():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True, capacity_factor=0.001).eval()
    with moezoo.record_routing(model) as records:
        logits = model(torch.randn(4, 1, 16, 16))
    assert logits.isfinite().all()
    routing = records[0].routing
    assert routing.counts().max() == 1
    assert routing.dropped.sum() > 0.9 * routing.num_tokens


def test_scripting_is_refused_by_torch_and_never_wrong():
    for module in (moezoo.create_model("entity_moe/test_vit").eval(), MoELayer(8, num_experts=4)):
        with (
            pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"),
            pytest.raises(torch.jit.frontend.NotSupportedError),
        ):
            torch.jit.script(module)
