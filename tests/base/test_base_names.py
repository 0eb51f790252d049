"""Names: both spellings, the longest family, the nearest spelling, natural order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moezoo.names import ModelName, did_you_mean, is_stored_name, natural_key, nearest, parse_name

FAMILIES = ("moe", "entity_moe", "entity_moe_big", "vmoe")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("entity_moe/vit_base", ("entity_moe", "vit_base", "")),
        ("entity_moe/vit_base.last", ("entity_moe", "vit_base", "last")),
        ("entity_moe_vit_base.last", ("entity_moe", "vit_base", "last")),
        ("entity_moe_big_vit_base", ("entity_moe_big", "vit_base", "")),
        ("moe_tiny", ("moe", "tiny", "")),
        ("vmoe/hf:facebook/dinov2-base", ("vmoe", "hf:facebook/dinov2-base", "")),
        ("entity_moe/vit.a.b", ("entity_moe", "vit", "a.b")),
    ],
)
def test_a_name_is_split_by_the_longest_registered_family(text, parts):
    name = parse_name(text, FAMILIES)
    assert name == ModelName(*parts)


@pytest.mark.parametrize(
    "text", ["", "entity_moe", "entity_moe/", "entity_moe_", "resnet50", "Entity_moe/x", "entity_moex"]
)
def test_without_a_family_there_is_no_name(text):
    assert parse_name(text, FAMILIES) is None


@given(
    st.sampled_from(FAMILIES),
    st.from_regex(r"[a-z0-9][a-z0-9_\-]{0,20}", fullmatch=True),
    st.from_regex(r"([a-z0-9][a-z0-9_\-]{0,9})?", fullmatch=True),
)
def test_the_canonical_spelling_comes_back_from_parsing(family, arch, variant):
    name = ModelName(family, arch, variant)
    # "entity_moe" + "big_x" reads as the longer family in the underscore spelling, by the rule of the longest
    # family.
    assert parse_name(str(name), FAMILIES) == name
    again = parse_name(name.underscore, FAMILIES)
    assert again is not None
    assert again.underscore == name.underscore


def test_stored_names_have_a_prefix():
    assert is_stored_name("hf-hub:user/repo")
    assert is_stored_name("local-dir:folder")
    assert not is_stored_name("entity_moe/vit_base")


def test_nearest_spellings_come_best_first_and_at_most_three():
    options = ["vit_tiny", "vit_small", "vit_base", "vit_large", "resnet50"]
    assert nearest("vit_tyni", options)[0] == "vit_tiny"
    assert len(nearest("vit_", options)) == 3
    assert did_you_mean("vit_tyni", ["vit_tiny"]) == " Did you mean: vit_tiny?"
    assert did_you_mean("zzzzzz", options) == ""


def test_natural_order_puts_layer2_before_layer10():
    assert sorted(["layer10", "layer2", "layer1.b", "layer1"], key=natural_key) == [
        "layer1",
        "layer1.b",
        "layer2",
        "layer10",
    ]


@given(st.lists(st.text(alphabet="ab01_./", max_size=6)))
def test_natural_order_compares_any_two_names(names):
    assert len(sorted(names, key=natural_key)) == len(names)
