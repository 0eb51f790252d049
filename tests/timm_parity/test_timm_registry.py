"""What timm's registry answers, asked of moezoo's names."""

import subprocess
import sys
import warnings

import pytest
import timm

import moezoo
from moezoo import registration, registry
from moezoo.backbones.timm_models import weight_tags
from moezoo.errors import ConfigError, MoeZooDeprecationWarning, RegistrationError, UnknownModelError
from moezoo.names import canonical_stored_name, is_stored_name
from moezoo.registry import deprecated_models, families

MAIN = """
import dataclasses
from moezoo import is_model, list_models, model_config, model_entrypoint, register_model
from moezoo.config import STRICT, option

@dataclasses.dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    width: int = option(8, "width")

@register_model("mine/net", variants={"wide": {"width": 99}})
def net():
    return Config()

assert __name__ == "__main__" and model_entrypoint("mine_net") is net
assert list_models(family="mine") == ["mine/net", "mine/net.wide"] and is_model("mine/net.wide")
assert model_config("mine/net.wide").width == 99
"""


def test_every_name_is_found_by_the_words_in_it():
    families = ("diff_moe", "entity_moe", "mobile_vmoe", "multiscale_moe", "soft_moe", "swin_moe", "vmoe")
    named = [name for family in families for name in moezoo.list_models(family=family)]
    assert moezoo.list_models("*moe*") == named
    assert moezoo.list_models("*") == moezoo.list_models() == moezoo.list_models(family="attention_routing") + named
    assert moezoo.list_models("*resnet*") == moezoo.list_models("entity_moe/resnet*") != []


def test_filters_are_one_pattern_or_several_and_leave_out_others():
    both = moezoo.list_models(["*resnet50*", "*vit_tiny*"], exclude_filters="*.dense")
    assert both == [
        *("attention_routing/vit_tiny", "attention_routing/vit_tiny.amod", "attention_routing/vit_tiny.cheap_compute"),
        *("attention_routing/vit_tiny.last_half", "attention_routing/vit_tiny.random_routing"),
        "attention_routing/vit_tiny.routed",
        *("entity_moe/resnet50.all", "entity_moe/resnet50.last"),
        *("entity_moe/resnet50.layer3", "entity_moe/resnet50.layer4"),
        *("entity_moe/vit_tiny.all", "entity_moe/vit_tiny.last", "entity_moe/vit_tiny.last_half"),
        *("soft_moe/vit_tiny.jetpack", "soft_moe/vit_tiny.last2", "soft_moe/vit_tiny.last_half"),
        *("vmoe/vit_tiny.every2", "vmoe/vit_tiny.last2", "vmoe/vit_tiny.last_half"),
    ]
    assert moezoo.list_models(family="entity_moe", filter="*resnet101.layer*", exclude_filters=["*3"]) == [
        "entity_moe/resnet101.layer4"
    ]


def test_names_are_in_natural_order():
    names = moezoo.list_models("*resnet*")
    assert names.index("entity_moe/resnet50.all") < names.index("entity_moe/resnet101.all")


def test_pretrained_lists_narrow_as_the_others_do():
    names = moezoo.list_pretrained("*vit*", exclude_filters=["*large*", "*.dense"])
    assert names == moezoo.list_models("*vit*", exclude_filters=["*large*", "*.dense"], pretrained=True)
    assert "entity_moe/vit_base.last" in names
    assert not any("large" in name or name.endswith(".dense") for name in names)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("entity_moe/resnet18", True),
        ("entity_moe_resnet18.layer4", True),
        ("entity_moe/resnet50.layer4", True),
        ("entity_moe/resnet18.bogus", False),
        ("entity_moe/resnet50.bogus", False),
        ("entity_moe/resnet5O", False),
        ("resnet50", False),
        ("zzz", False),
    ],
)
def test_a_model_is_one_only_with_a_variant_it_has(name, known):
    assert moezoo.is_model(name) is known


ASK = (moezoo.create_model, moezoo.model_config, moezoo.get_pretrained_cfg, moezoo.model_entrypoint)


@pytest.mark.parametrize("ask", ASK)
def test_an_unknown_name_is_told_with_the_nearest(ask):
    if ask is not moezoo.model_entrypoint:  # which knows registered names alone
        with pytest.raises(UnknownModelError, match=r"'entity_moe/resnet5O'.*Did you mean: entity_moe/resnet50"):
            ask("entity_moe/resnet5O")
    with pytest.raises(UnknownModelError, match=r"unknown model 'resnet50'\. Did you mean: entity_moe.resnet50"):
        ask("resnet50")
    with pytest.raises(UnknownModelError, match="unknown model 'zzz'"):
        ask("zzz")


def test_a_hub_repository_without_its_prefix_is_told_how_to_write_it():
    for ask in (moezoo.create_model, moezoo.model_config):
        with pytest.raises(UnknownModelError, match=r"A model on the Hub is written 'hf-hub:user/repo@v1\.0'"):
            ask("user/repo@v1.0")
    with pytest.raises(UnknownModelError) as caught:
        moezoo.create_model("entity_moe/no_such_thing")
    assert "hf-hub" not in str(caught.value)


def test_timms_other_spelling_of_the_hub_is_the_same_name():
    assert canonical_stored_name("hf_hub:user/repo@main") == "hf-hub:user/repo@main"
    assert is_stored_name("hf_hub:user/repo")
    for name in ("hf-hub:user/repo", "local-dir:hf_hub:x", "entity_moe/resnet18"):
        assert canonical_stored_name(name) == name


def test_weight_tags_are_listed_and_a_bad_one_says_them():
    tags = weight_tags("resnet18")
    assert sorted(f"resnet18.{tag}" for tag in tags) == sorted(timm.list_models("resnet18", include_tags=True))
    assert moezoo.get_pretrained_cfg("entity_moe/resnet18").tag == tags[0]
    with pytest.raises(ConfigError, match=rf"backbone_tag='nope'.*Tags: {', '.join(tags)}"):
        moezoo.create_model("entity_moe/resnet18", backbone_tag="nope")
    with pytest.raises(UnknownModelError, match=r"no variant 'a1_in1k'.*backbone_tag="):
        moezoo.create_model("entity_moe/resnet18.a1_in1k")


def test_families_are_what_modules_are_to_timm():
    assert "entity_moe" in families()
    assert {name.partition("/")[0] for name in moezoo.list_models()} <= set(families())
    with pytest.raises(UnknownModelError, match=r"unknown family 'entity_mo'. Did you mean: entity_moe"):
        moezoo.list_models(family="entity_mo")


def test_every_listed_name_has_an_entrypoint_that_returns_its_configuration():
    for name in moezoo.list_models():
        config = moezoo.model_entrypoint(name)()
        assert type(moezoo.model_config(name)) is type(config)
        assert moezoo.is_model(name)
        assert moezoo.is_model(name.replace("/", "_"))


def test_the_pretrained_configuration_is_timms_whole():
    cfg = moezoo.get_pretrained_cfg("entity_moe/resnet50")
    assert cfg == timm.get_pretrained_cfg("resnet50")
    assert (cfg.input_size, cfg.crop_pct, cfg.interpolation, cfg.classifier) == ((3, 224, 224), 0.95, "bicubic", "fc")


def test_deprecated_names_are_known_but_not_listed(monkeypatch):
    moezoo.list_models()  # what is registered by then is restored
    for name, table in {"MODELS": dict(registry.MODELS), "DEPRECATED": {}}.items():
        for module in (registration, registry):
            monkeypatch.setattr(module, name, table)
    config = moezoo.model_config("entity_moe/test_vit2")
    moezoo.register_model("entity_moe/parity", deprecated=("entity_moe/parity_old",))(lambda: config)
    assert deprecated_models() == {"entity_moe/parity_old": "entity_moe/parity"}
    assert moezoo.list_models("*parity*") == ["entity_moe/parity"]
    with pytest.warns(MoeZooDeprecationWarning, match="use 'entity_moe/parity'"):
        assert moezoo.model_config("entity_moe/parity_old") == config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert moezoo.is_model("entity_moe/parity_old")
    with pytest.raises(RegistrationError, match="already registered"):
        moezoo.register_model("entity_moe/parity")(lambda: config)


def test_a_script_registers_its_own_models():
    done = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
