"""The registries: names are taken once, found in both spellings, listed in natural order, and missed
helpfully.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest

import moezoo
from moezoo import plugins, registration, registry
from moezoo.config import STRICT, option
from moezoo.errors import (
    ConfigError,
    MoeZooDeprecationWarning,
    RegistrationError,
    UnknownModelError,
)
from moezoo.registry import (
    OpenArchs,
    is_model,
    is_model_pretrained,
    list_models,
    list_pretrained,
    model_config,
    model_entrypoint,
    model_weights,
    register_model,
    register_open_archs,
)


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT

    where: str = option("last", "where", alias="place")
    width: int = option(8, "width")
    arch: str = option("", "architecture")


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    """Registries of the test's own, with four models of two families."""
    for name in ("MODELS", "DEPRECATED", "OPEN_ARCHS"):
        table = {}
        for module in (registration, registry):
            monkeypatch.setattr(module, name, table)
    monkeypatch.setattr(plugins, "_loaded", True)
    variants = {"all": {"where": "all"}, "last": {"place": "last"}}

    @register_model("fam/net10", variants=variants, weights={"": "hf-hub:u/bare", "last": "hf-hub:u/last"})
    def net10():
        return Config()

    @register_model("fam/net2", variants={"wide": {"width": 99}}, weights="backbone", deprecated=("fam/old_net",))
    def net2():
        return Config()

    @register_model("fam_big/net", weights={"": "hf-hub:u/big"})
    def net():
        return Config(width=1)

    @register_model("other/thing")
    def thing():
        return Config()


@pytest.mark.parametrize("name", ["fam/net2", "fam/old_net"])
def test_a_model_name_is_taken_once_deprecated_ones_included(name):
    with pytest.raises(RegistrationError, match=f"{name!r} is already registered"):
        register_model(name)(Config)
    with pytest.raises(RegistrationError, match="already registered"):
        register_model("fam/fresh", deprecated=(name,))(Config)
    assert "fam/fresh" not in list_models()


@pytest.mark.parametrize("name", ["net", "/net", "fam/", "fam/a/b", "fam/a.b", "fam /a", "fam/" + "x" * 99])
def test_a_model_name_is_family_and_architecture(name):
    with pytest.raises(RegistrationError):
        register_model(name)(Config)


def test_a_variant_name_is_a_word():
    with pytest.raises(RegistrationError, match=r"variant 'a\.b'"):
        register_model("fam/x", variants={"a.b": {}})(Config)


def test_bare_use_takes_the_name_of_the_function():
    def fam_small():
        return Config(width=2)

    fam_small.__module__ = "somewhere.fam.presets"
    assert register_model(fam_small) is fam_small
    assert model_entrypoint("fam/small") is fam_small
    fam_small.__module__ = "somewhere.another.presets"
    with pytest.raises(RegistrationError, match="must start with its family"):
        register_model(fam_small)


@pytest.mark.parametrize(
    ("arguments", "function", "words"),
    [
        ({"name": 3}, Config, "3 must be a string"),
        ({"name": "fam/new"}, Config(), "must be a function"),
        ({"name": "fam/new"}, lambda arch: Config(), "fails without arguments"),
        ({"name": "fam/new"}, lambda: None, "must return a dataclass, got None"),
        ({"name": "fam/new", "variants": ["all"]}, Config, "must map variant names"),
        ({"name": "fam/new", "variants": {"all": "all"}}, Config, "must map variant names"),
        (
            {"name": "fam/new", "variants": {"all": {"wher": "all"}}},
            Config,
            "unknown field 'wher'. Did you mean: where",
        ),
        ({"name": "fam/new", "weights": "hf-hub:u/w"}, Config, "must be 'backbone' or map variants"),
        ({"name": "fam/new", "weights": 3}, Config, "must be 'backbone' or map variants"),
    ],
)
def test_a_mistaken_registration_is_refused_when_it_is_made(arguments, function, words):
    known = list_models()
    with pytest.raises(RegistrationError, match=words):
        register_model(**arguments)(function)
    assert list_models() == known


def test_one_deprecated_name_may_be_given_bare():
    register_model("fam/new", deprecated="fam/older")(Config)
    with pytest.warns(MoeZooDeprecationWarning, match="fam/new"):
        assert model_config("fam/older") == Config()


def test_names_come_in_natural_order_with_their_variants():
    assert list_models() == [
        "fam/net2",
        "fam/net2.wide",
        "fam/net10.all",
        "fam/net10.last",
        "fam_big/net",
        "other/thing",
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*net10*", ["fam/net10.all", "fam/net10.last"]),
        ("fam/net10.a*", ["fam/net10.all"]),
        ("fam_net10.all", ["fam/net10.all"]),
        ("fam_*", ["fam/net2", "fam/net2.wide", "fam/net10.all", "fam/net10.last", "fam_big/net"]),
        ("fam/net10", ["fam/net10.last"]),
        (["*thing", "fam_big*"], ["fam_big/net", "other/thing"]),
        ("nothing*", []),
    ],
)
def test_patterns_match_either_spelling(pattern, found):
    assert list_models(pattern) == found


def test_names_are_left_out_and_narrowed_to_a_family():
    assert list_models("fam*", exclude_filters=["*.*", "fam_big/*"]) == ["fam/net2"]
    assert list_models(family="other") == ["other/thing"]
    with pytest.raises(
        UnknownModelError, match=r"unknown family 'othr'\. Did you mean: other\? Known: fam, fam_big, other"
    ):
        list_models(family="othr")


def test_the_default_variant_is_the_one_that_changes_nothing():
    assert model_config("fam/net10") == model_config("fam/net10.last")
    assert model_config("fam/net10.all").where == "all"
    assert list_models("fam/net2") == ["fam/net2"]


def test_weights_are_known_without_the_network():
    assert list_pretrained() == ["fam/net2", "fam/net2.wide", "fam/net10.last", "fam_big/net"]
    assert list_models("*wide", pretrained=True) == ["fam/net2.wide"]
    assert is_model_pretrained("fam_net10.last")
    assert is_model_pretrained("fam/net10")
    assert not is_model_pretrained("fam/net10.all")
    assert not is_model_pretrained("other/thing")
    assert model_weights("fam/net10") == "hf-hub:u/last"
    assert model_weights("fam/net2.wide") == "backbone"
    assert model_weights("other/thing") is None


def test_the_underscore_spelling_means_the_longest_family():
    assert model_config("fam_big_net").width == 1
    assert model_config("fam_net2.wide").width == 99


def test_overrides_win_over_the_variant_under_any_of_their_names():
    assert model_config("fam/net2.wide", width=5).width == 5
    assert model_config("fam/net10.all", place="first").where == "first"
    with pytest.raises(ConfigError, match=r"fam/net2: unknown field 'widht'\. Did you mean: width"):
        model_config("fam/net2", widht=3)


def test_deprecated_names_warn_and_mean_their_successor():
    with pytest.warns(MoeZooDeprecationWarning, match="'fam/old_net' is deprecated, use 'fam/net2'") as caught:
        assert model_config("fam_old_net.wide").width == 99
    assert caught[0].filename == __file__
    assert "fam/old_net" not in list_models()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_model("fam/old_net")


@pytest.mark.parametrize("name", ["fam/net3", "fam/ent2", "net2", "fam", "", None, 3, "fam/" + "x" * 10_000])
def test_an_unknown_name_is_an_error_of_bounded_length(name):
    with pytest.raises(UnknownModelError) as caught:
        model_config(name)
    assert len(str(caught.value)) < 500
    assert not is_model(name)


def test_an_unknown_name_says_the_three_nearest():
    with pytest.raises(UnknownModelError, match=r"Did you mean: fam/net2, fam.net2(\.wide)?, [^,]+\?"):
        model_config("fam/net22")


def test_an_unknown_variant_says_the_variants():
    with pytest.raises(
        UnknownModelError,
        match=r"'fam/net10' has no variant 'lst'\. Did you mean: last\? Variants: all, last",
    ):
        model_config("fam/net10.lst")
    with pytest.raises(UnknownModelError, match="One variant per name"):
        model_config("fam/net10.last.all")


def test_a_family_may_answer_to_architectures_nobody_registered():
    archs = OpenArchs(
        config=lambda arch: Config(arch=arch),
        known=lambda arch: arch.startswith("res"),
        names=lambda: ["resnet18", "resnet50"],
        variants={"first": {"where": "first"}},
    )
    register_open_archs("fam", archs)
    assert model_config("fam/resnet18.first", width=3) == Config("first", 3, "resnet18")
    assert is_model("fam_resnet18")
    assert not is_model("fam/unknown")
    with pytest.raises(UnknownModelError, match="Did you mean: fam/resnet18"):
        model_config("fam/rensnet18")
    assert not is_model_pretrained("fam/resnet18")
    with pytest.raises(UnknownModelError, match="no registered entrypoint"):
        model_entrypoint("fam/resnet18")
    with pytest.raises(UnknownModelError, match="no variant 'last'"):
        model_config("fam/resnet18.last")
    with pytest.raises(RegistrationError):
        register_open_archs("fam", archs)


def test_the_public_names_are_those_of_the_registry():
    assert moezoo.list_models is list_models
    assert moezoo.model_config is model_config
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = moezoo.nothing
