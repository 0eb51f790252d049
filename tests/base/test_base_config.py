"""Configurations: strict decoding with an explanation, aliases, merging, YAML and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt
from hypothesis import given
from hypothesis import strategies as st

from moezoo.config import (
    STRICT,
    decode,
    field_names,
    from_yaml,
    merge,
    option,
    override,
    parse_assignments,
    read_yaml,
    to_dict,
    to_yaml,
)
from moezoo.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    __pydantic_config__ = STRICT

    experts: Annotated[int, Ge(1)] = option(4, "experts", alias="num_experts")
    rate: Annotated[float, Ge(0), Lt(1)] = option(0.1, "dropout", alias=("drop", "model.drop"))
    kind: Literal["mlp", "glu"] = option("mlp", "kind")
    sizes: tuple[int, ...] = option(default=(1, 2), help="sizes")
    per_block: int | dict[int, int] = option(1, "per block")
    place: int | str | tuple[int | str, int] = option("last", "where")
    flag: bool = option(False, "a flag")
    name: str | None = option(None, "a name")
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.experts == 13:
            raise ConfigError("experts=13 is unlucky")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4", None, [4], float("nan"), {}])
def test_a_count_is_a_whole_number_from_one(value):
    with pytest.raises(ConfigError, match=r"experts=.* is not allowed") as caught:
        decode(Sample, {"experts": value})
    assert repr(value) in str(caught.value) or value != value


@pytest.mark.parametrize("value", [-0.1, 1.0, 7, "0.1", True, None, float("nan"), float("inf")])
def test_a_rate_is_a_number_from_zero_to_below_one(value):
    with pytest.raises(ConfigError, match="rate"):
        decode(Sample, {"rate": value})


@pytest.mark.parametrize("value", [0, 1, "true", None, "False"])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(ConfigError, match="flag"):
        decode(Sample, {"flag": value})


def test_a_whole_number_stands_for_a_float_but_not_the_other_way():
    assert decode(Sample, {"rate": 0}).rate == 0.0
    with pytest.raises(ConfigError):
        decode(Sample, {"experts": 4.0})


def test_an_unknown_field_says_the_nearest_and_all_allowed():
    with pytest.raises(
        ConfigError, match=r"here: unknown field 'expert'\. Did you mean: experts.*Allowed: experts, rate"
    ):
        decode(Sample, {"expert": 1}, where="here")


def test_a_wrong_choice_says_the_allowed_and_the_nearest():
    with pytest.raises(ConfigError, match=r"kind='mpl' is not allowed: .*'mlp' or 'glu'.*Did you mean: mlp"):
        decode(Sample, {"kind": "mpl"})


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)experts=0.*rate=2"):
        decode(Sample, {"experts": 0, "rate": 2})


def test_aliases_set_their_field_but_only_one_of_them():
    assert decode(Sample, {"num_experts": 7}).experts == 7
    assert decode(Sample, {"model.drop": 0.5}).rate == 0.5
    assert field_names(Sample)["drop"] == "rate"
    for twice in ({"experts": 7, "num_experts": 7}, {"num_experts": 7, "experts": 7}):
        with pytest.raises(ConfigError, match="'experts' is given twice, once as 'num_experts'"):
            decode(Sample, twice)


def test_lists_become_tuples_and_mappings_keep_whole_number_keys():
    config = decode(Sample, {"sizes": [3, 4], "per_block": {2: 8, 11: 4}, "place": [1, 2]})
    assert config.sizes == (3, 4)
    assert config.per_block == {2: 8, 11: 4}
    assert config.place == (1, 2)
    with pytest.raises(ConfigError, match="per_block"):
        decode(Sample, {"per_block": {"two": 8}})
    with pytest.raises(ConfigError, match="sizes"):
        decode(Sample, {"sizes": [1, 2.5]})


def test_an_error_of_the_dataclass_itself_keeps_its_words():
    with pytest.raises(ConfigError, match=r"^where: experts=13 is unlucky$"):
        decode(Sample, {"experts": 13}, where="where")


@pytest.mark.parametrize("values", [[("experts", 1)], "experts=1", 3])
def test_only_a_mapping_is_decoded(values):
    with pytest.raises(ConfigError, match="mapping"):
        decode(Sample, values)


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 1, b"x"])
def test_what_is_not_plain_data_is_refused(value):
    with pytest.raises(ConfigError, match="plain data"):
        decode(Sample, {"extra": {"x": value}})


def test_override_changes_named_fields_only_and_is_strict():
    config = decode(Sample, {"experts": 2, "sizes": [9]})
    assert override(config, {"num_experts": 3}) == Sample(experts=3, sizes=(9,))
    assert override(config, {}) is config
    with pytest.raises(ConfigError, match="unknown field"):
        override(config, {"nope": 1})


configs = st.builds(
    Sample,
    experts=st.integers(1, 12),
    rate=st.floats(0, 0.99),
    kind=st.sampled_from(["mlp", "glu"]),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    per_block=st.one_of(st.integers(), st.dictionaries(st.integers(0, 99), st.integers(0, 9), max_size=3)),
    place=st.one_of(
        st.integers(), st.sampled_from(["last", "1", "true", "1e3"]), st.tuples(st.integers(), st.integers())
    ),
    flag=st.booleans(),
    name=st.one_of(st.none(), st.sampled_from(["null", "1e-3", "yes", "0x1", "ü: #", ""])),
)


@given(configs)
def test_a_configuration_survives_json_and_yaml(config):
    assert decode(Sample, json.loads(json.dumps(to_dict(config)))) == config
    assert decode(Sample, from_yaml(to_yaml(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1.5e+3", 1500.0),
        ("-2e-1", -0.2),
        ("1e", "1e"),
        ("e3", "e3"),
        ("0.1", 0.1),
        ("7", 7),
    ],
)
def test_scientific_notation_is_a_number_in_yaml(text, value):
    read = from_yaml(f"x: {text}")["x"]
    assert read == value
    assert type(read) is type(value)
    assert parse_assignments([f"x={text}"]) == {"x": value}


def test_yaml_must_be_a_mapping_and_safe():
    assert from_yaml("") == {}
    with pytest.raises(ConfigError, match="must be a mapping"):
        from_yaml("- 1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        from_yaml("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        from_yaml("a: !!python/object/apply:os.system ['true']")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_yaml(tmp_path / "bom.yaml") == {"a": 1}


def test_assignments_build_a_nested_mapping_of_yaml_values():
    pairs = [
        "model.num_experts=8",
        "training.lr=1e-3",
        "training.betas=[0.9, 0.99]",
        "note=a=b",
        "model.x=null",
    ]
    assert parse_assignments(pairs) == {
        "model": {"num_experts": 8, "x": None},
        "training": {"lr": 1e-3, "betas": [0.9, 0.99]},
        "note": "a=b",
    }
    for wrong in (["lr"], ["=1"], ["a=1", "a.b=2"], ["a=["]):
        with pytest.raises(ConfigError, match="--set"):
            parse_assignments(wrong)


def test_flags_win_over_the_file_and_the_file_over_the_preset():
    preset = {"model": {"a": 1, "b": 1, "c": 1}, "seed": 0}
    file = {"model": {"b": 2, "c": 2}, "training": {"lr": 1}}
    flags = {"model": {"c": 3}}
    assert merge(preset, file, flags) == {"model": {"a": 1, "b": 2, "c": 3}, "seed": 0, "training": {"lr": 1}}
    assert preset == {"model": {"a": 1, "b": 1, "c": 1}, "seed": 0}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
