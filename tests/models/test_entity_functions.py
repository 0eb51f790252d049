"""The documented functions and printed formats of EntityMoE."""

import pytest
import torch

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError, InjectionError, UnknownModelError
from moezoo.models import entity_moe

SLIM = {"expert_dim": 8, "mlp_ratio": 0.1}


def test_print_model_info_has_the_documented_format(capsys):
    with torch.device("meta"):
        model = entity_moe.vit_base_entity_moe(pretrained=False)
    moezoo.print_model_info(model)
    assert capsys.readouterr().out == (
        "=" * 60 + "\nEntityMoE Configuration\n" + "=" * 60 + "\n"
        "model_type: vit\nbase_model: vit_base_patch16_224\ninject_layers: [11]\nnum_experts: 4\n"
        "num_experts_shared: 2\nexpert_k: 1\n" + "=" * 60 + "\n"
    )
    assert list(model.entity_moe_config) == [
        "model_type",
        "base_model",
        "inject_layers",
        "num_experts",
        "num_experts_shared",
        "expert_k",
    ]


def test_print_model_info_of_a_plain_model_says_so(capsys):
    moezoo.print_model_info(torch.nn.Linear(2, 2))
    assert "No EntityMoE configuration found." in capsys.readouterr().out


def test_verbose_info_states_what_the_adapters_add(capsys):
    with torch.device("meta"):
        model = moezoo.create_model("entity_moe/vit_base.last")
    moezoo.print_model_info(model, verbose=True)
    added = sum(p.numel() for a in adapters_of(model).values() for p in a.parameters())
    text = capsys.readouterr().out
    assert f"added by adapters: {added:,}" in text
    assert f"blocks.11.entity_moe: {added:,}" in text
    total = sum(p.numel() for p in model.parameters())
    one_expert = 2 * 768 * 3072 + 768 + 3072
    assert f"{total:,} total, {total - 3 * one_expert:,} active" in text


@pytest.mark.parametrize(
    ("make", "where", "listed"),
    [
        (entity_moe.create_vit_entity_moe, "all", list(range(12))),
        (entity_moe.create_vit_entity_moe, [9, 10, 11], [9, 10, 11]),
        (entity_moe.create_vit_entity_moe, [-1], [11]),
        (entity_moe.create_vit_entity_moe, [9, 10], [9, 10]),
        (entity_moe.create_swin_entity_moe, [(3, 1)], [(3, 1)]),
        (entity_moe.create_swin_entity_moe, "last_stage", [(3, 0), (3, 1)]),
        (entity_moe.create_swin_entity_moe, [(3, 1), (2, 5)], [(2, 5), (3, 1)]),
        (entity_moe.create_swin_entity_moe, "all", [(s, b) for s, n in enumerate((2, 2, 6, 2)) for b in range(n)]),
        (entity_moe.create_resnet_entity_moe, "layer4", [("layer4", 0), ("layer4", 1), ("layer4", 2)]),
        (entity_moe.create_resnet_entity_moe, "layer3", [("layer3", i) for i in range(6)]),
        (
            entity_moe.create_resnet_entity_moe,
            [("layer3", 5), ("layer4", 0), ("layer4", 1)],
            [("layer3", 5), ("layer4", 0), ("layer4", 1)],
        ),
    ],
)
def test_documented_places(make, where, listed):
    with torch.device("meta"):
        model = make(pretrained=False, inject_layers=where, num_classes=10, **SLIM).eval()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 10)
    assert model.entity_moe_config["inject_layers"] == listed


@pytest.mark.parametrize(
    "model_name", ["vit_small_patch16_224", "swin_base_patch4_window12_384", "resnet152", "vit_large_patch16_384"]
)
def test_any_timm_name_at_its_own_size(model_name):
    make = {
        "v": entity_moe.create_vit_entity_moe,
        "s": entity_moe.create_swin_entity_moe,
        "r": entity_moe.create_resnet_entity_moe,
    }
    with torch.device("meta"):
        model = make[model_name[0]](model_name=model_name, pretrained=False).eval()
        assert model(torch.empty(1, *model.pretrained_cfg["input_size"])).shape == (1, 1000)
    assert model.entity_moe_config["base_model"] == model_name


def test_other_keyword_arguments_go_to_timm():
    model = entity_moe.create_vit_entity_moe("test_vit", pretrained=False, qkv_bias=False, img_size=32)
    assert model.blocks[0].attn.qkv.bias is None
    with pytest.raises(ConfigError, match="qkv_bais"):
        entity_moe.create_vit_entity_moe("test_vit", pretrained=False, qkv_bais=False)


def test_bare_name_default_variant_and_underscore_are_one_model():
    with torch.device("meta"):
        models = [
            moezoo.create_model(n)
            for n in (
                "entity_moe/swin_tiny",
                "entity_moe/swin_tiny.last_stage",
                "entity_moe_swin_tiny",
                "entity_moe_swin_tiny.last_stage",
            )
        ]
    assert {m.moezoo_name for m in models} == {"entity_moe/swin_tiny.last_stage"}
    assert len({m.moezoo_config for m in map(_freeze, models)}) == 1


def test_unregistered_timm_names_take_the_defaults_of_their_kind():
    with torch.device("meta"):
        assert moezoo.create_model("entity_moe/convnext_tiny").entity_moe_config["inject_layers"] == [
            (3, 0),
            (3, 1),
            (3, 2),
        ]
        assert moezoo.create_model("entity_moe/deit_tiny_patch16_224").entity_moe_config["inject_layers"] == [11]
        assert moezoo.create_model("entity_moe/convnext_tiny.last").entity_moe_config["inject_layers"] == [(3, 2)]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("entity_moe/vit_bsae", UnknownModelError, "vit_base"),
        ("entity_moe/convnext_tinny", UnknownModelError, "convnext_tiny"),
        ("entiti_moe/vit_base", UnknownModelError, "entity_moe"),
        ("entity_moe/vit_base.lst", UnknownModelError, "last"),
        ("entity_moe/vit_base.layer4", UnknownModelError, "no variant"),
        ("entity_moe/test_vit2.last_stage", InjectionError, "no stages"),
        ("entity_moe/vit_base.last.dense", UnknownModelError, "One variant per name"),
        ("", UnknownModelError, "a model name is a string"),
        (7, UnknownModelError, "a model name is a string"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, error, words):
    with pytest.raises(error, match=words), torch.device("meta"):
        moezoo.create_model(name)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_expert": 4}, "Did you mean: num_experts"),
        ({"num_experts": 0}, "greater than or equal to 1"),
        ({"num_experts": -1}, "num_experts=-1"),
        ({"num_experts": 1.5}, "num_experts=1.5"),
        ({"num_experts": True}, "num_experts=True"),
        ({"num_experts": "4"}, "num_experts='4'"),
        ({"expert_k": 5}, "at most num_experts=4"),
        ({"expert_k": 0}, "expert_k=0"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"activation": "gleu"}, "Did you mean: gelu"),
        ({"entities": "window"}, "windows"),
        ({"normalize": True}, "no gradient"),
        ({"capacity_factor": 0.0}, "capacity_factor"),
        ({"expert_dim": 10**9}, "expert_dim=1000000000"),
        ({"backbone_tag": "augreg"}, "augreg_in21k"),
        ({"in_chans": 0}, "in_chans=0"),
        ({"img_size": "224"}, "img_size"),
        ({"num_experts": []}, "empty"),
        ({"inject_layers": {"a": 1}}, "inject_layers"),
        ({"model_name": "test_vit", "backbone": "test_vit"}, "twice"),
    ],
)
def test_bad_overrides_name_field_value_and_what_is_allowed(overrides, words):
    with pytest.raises(ConfigError, match=words), torch.device("meta"):
        moezoo.create_model("entity_moe/vit_tiny", **overrides)


def test_none_means_the_default():
    config = moezoo.create_model("entity_moe/test_vit2", img_size=32, num_experts=None, drop_rate=None).moezoo_config
    assert config.num_experts == 4


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 1, 32, 32), "in_chans=1"),
        (torch.zeros(1, 3, 48, 48), r"img_size=\(48, 48\)"),
        (torch.zeros(3, 32, 32), "batch, 3, 32, 32"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floating point"),
    ],
)
def test_wrong_images_are_refused_by_name(x, words):
    model = moezoo.create_model("entity_moe/deit_tiny_patch16_224", img_size=32, **SLIM).eval()
    with pytest.raises(moezoo.errors.InputError, match=words):
        model(x)
    features = moezoo.create_model("entity_moe/deit_tiny_patch16_224", features_only=True, img_size=32, **SLIM).eval()
    with pytest.raises(moezoo.errors.InputError, match=words):
        features(x)
    assert moezoo.create_model("entity_moe/test_vit2", img_size=32)(torch.zeros(1, 3, 48, 48)).shape == (
        1,
        1000,
    )  # takes any size


def _freeze(model):
    class Box:
        moezoo_config = str(model.moezoo_config)

    return Box
