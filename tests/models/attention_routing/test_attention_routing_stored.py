"""Saved models, features, other heads, and files that do not fit."""

import pytest
import timm
import torch
from attention_routing_toys import TINY, asked, images

import moezoo
from moezoo.config import to_dict
from moezoo.errors import ConfigError, WeightsMismatch
from moezoo.hub.card import model_card

DIGITS = "attention_routing/digits"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = moezoo.create_model(DIGITS, **TINY).eval()
    model.set_budget(0.9)  # is no part of what is saved
    folder = tmp_path_factory.mktemp("model")
    moezoo.save_pretrained(model, folder)
    model.set_budget(None)
    return folder, model


def test_a_stored_model_answers_and_routes_alike(saved):
    folder, model = saved
    loaded = moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    want, got = asked(model, images()), asked(loaded, images())
    for key in ("logits", "attention_scores", "routing_mask"):
        assert torch.equal(got[key], want[key])
    assert loaded.moezoo_config == model.moezoo_config


def test_none_is_a_price_and_no_budget_where_models_are_created_too(saved):
    folder, _ = saved
    assert moezoo.create_model(DIGITS, budget_target=None, num_classes=None).config.budget_target is None
    assert moezoo.create_model(f"local-dir:{folder}", pretrained=True, budget_target=None).config.budget_target is None
    vit = moezoo.create_model("attention_routing/test_vit", img_size=32, budget=None, drop_rate=None)
    assert vit.blocks[0].mlp.token_routing.moe.router.budget is None
    assert vit.num_classes == 1000


def test_it_takes_another_head_and_router_mode(saved):
    folder, model = saved
    loaded = moezoo.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5, temperature=0.1).eval()
    assert loaded(images()).shape == (4, 5)
    assert torch.equal(asked(loaded, images()).routing_mask, asked(model, images()).routing_mask)


@pytest.mark.parametrize("changes", [{"patch_grid_size": 2}, {"patch_grid_size": 8, "aggregator": "mean"}])
def test_a_file_of_another_grid_names_both(saved, changes):
    folder, _ = saved
    says = f"saved with patch_grid_size=4 .* the model has patch_grid_size={changes['patch_grid_size']}"
    with pytest.raises(WeightsMismatch, match=says):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, **changes)
    with pytest.raises(WeightsMismatch, match=says):
        moezoo.create_model(DIGITS, checkpoint_path=folder / "model.safetensors", **{**TINY, **changes})


def test_a_file_of_other_crops_says_where_to_look(saved):
    folder, _ = saved
    with pytest.raises(WeightsMismatch, match="look at patch_grid_size, crop_context and img_size"):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, crop_context=2)
    with pytest.raises(WeightsMismatch, match=r"saved with big_input='crop', the model has big_input='both'\.$"):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, big_input="both")
    for changes in ({"big_hidden_dim": 20}, {"embed_dim": 8, "aggregator": "mean"}):
        with pytest.raises(WeightsMismatch) as told:
            moezoo.create_model(f"local-dir:{folder}", pretrained=True, **changes)
        assert "num_experts" not in str(told.value)
        assert "num_classes" not in str(told.value)


def test_the_card_tells_of_the_dial_and_of_the_twin_where_there_are_such():
    def card(name):
        return model_card({"name": name, "config": to_dict(moezoo.model_config(name)), "moezoo_version": "1"})

    routed, vit = card(DIGITS), card("attention_routing/vit_small")
    assert "set_budget" in routed
    assert "as wide as the FLOPs" in routed
    assert "dense=True" in routed
    assert "set_budget" in vit
    assert "dense=True" not in vit
    for control, dial in (("full_compute", False), ("dense", False), ("random_routing", True), ("fixed_center", True)):
        text = card(f"{DIGITS}.{control}")
        assert ("set_budget" in text) == dial
        assert "dense=True" not in text  # which no control can be built with


def test_a_control_does_not_load_what_the_model_saved(saved):
    folder, _ = saved
    with pytest.raises(WeightsMismatch, match="missing in the file"):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, compute="full")


def test_heads_and_features():
    x = images()
    bare = moezoo.create_model(DIGITS, **{**TINY, "num_classes": 0})
    assert bare(x).shape == (4, 10)
    bare.reset_classifier(6)
    assert bare(x).shape == (4, 6)
    assert bare.get_classifier().out_features == 6
    with pytest.raises(ConfigError, match="aggregator="):
        bare.reset_classifier(6, global_pool="avg")
    features = moezoo.create_model(DIGITS, features_only=True, **TINY)
    assert [m.shape[1:] for m in features(x)] == [(8, 8, 8), (8, 4, 4)]
    assert features.feature_info.reduction() == [2, 4]
    for variant, option in (("full_compute", "compute='full'"), ("dense", "dense=True")):
        with pytest.raises(ConfigError, match=f"not possible with {option}: it has no encoder"):
            moezoo.create_model(f"{DIGITS}.{variant}", features_only=True, **TINY)
        with pytest.raises(ConfigError, match="no encoder"):
            moezoo.create_model(f"{DIGITS}.{variant}", **TINY).forward_intermediates(x)


def test_learning_rates_by_role():
    for variant in ("", ".full_compute", ".no_routing"):
        model = moezoo.create_model(DIGITS + variant, **TINY)
        groups = {g["name"]: g for g in moezoo.param_groups(model, lr_backbone=1.0, lr_moe=2.0, lr_head=3.0)}
        big = {id(p) for p in model.big.parameters()}
        moe = {id(p) for p in groups["moe"]["params"]}
        assert big <= moe
        if model.attention is not None:  # it is what learns where to look
            assert {id(p) for p in model.attention.parameters()} <= moe
        assert {id(p) for p in groups["head"]["params"]} == {id(p) for p in model.head.classifier.parameters()}
    assert moezoo.create_model(DIGITS, **TINY).no_weight_decay() == {"moe.router.threshold_logit"}


@torch.no_grad()
def test_published_models_come_back_a_transformer_with_its_dial(hub, tmp_path):
    hub.users["hf_token"] = "user"
    vit = timm.create_model("test_vit", img_size=32, num_classes=3)
    moezoo.inject_moe(vit, "all", router="threshold")
    vit.set_budget(0.4)
    for model, size in ((moezoo.create_model(DIGITS, **TINY), (2, 16, 16)), (vit, (3, 32, 32))):
        name = moezoo.push_to_hub(model.eval(), "user/routed", token="hf_token")
        back = moezoo.create_model(name, pretrained=True, cache_dir=tmp_path).eval()
        x = torch.randn(2, *size)
        assert torch.equal(back(x), model(x))
        moezoo.set_budget(model, 1.0)
        assert not torch.equal(back(x), model(x))
