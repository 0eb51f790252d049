"""V-MoE's words for which blocks hold experts."""

import pytest
import timm

import moezoo
from moezoo.backbones.placement import is_placement, placed_blocks
from moezoo.errors import ConfigError, InjectionError


@pytest.mark.parametrize(
    ("word", "depth", "blocks"),
    [
        ("last2", 8, (5, 7)),  # V-MoE-S/32
        ("last2", 12, (9, 11)),
        ("last5", 32, (23, 25, 27, 29, 31)),  # V-MoE-H/14
        ("every2", 12, (1, 3, 5, 7, 9, 11)),
        ("every3", 12, (2, 5, 8, 11)),
        ("every1", 3, (0, 1, 2)),
        ("last2", 5, (1, 3)),
        ("every5", 7, (4,)),
        ("last1", 2, (1,)),
    ],
)
def test_words_mean_what_they_do_in_v_moe(word, depth, blocks):
    assert is_placement(word)
    assert placed_blocks(word, depth) == blocks


def test_other_words_and_short_stacks_are_refused():
    assert not any(map(is_placement, ("last", "last0", "last_half", "every", "last2 ", 2, None)))
    with pytest.raises(ConfigError, match=r"'last_2' is no placement.*'last2'"):
        placed_blocks("last_2", 12)
    with pytest.raises(ConfigError, match=r"every second of 5 blocks are 2; the largest is 'last2'"):
        placed_blocks("last3", 5)
    with pytest.raises(ConfigError, match="the largest is 'every5'"):
        placed_blocks("every6", 5)
    with pytest.raises(InjectionError, match=r"where='last9'.*largest is 'last3'.*blocks.0"):
        moezoo.upcycle(timm.create_model("test_vit"), "last9", num_experts=2)


def test_injection_and_upcycling_know_them():
    vit = moezoo.upcycle(timm.create_model("test_vit"), "last2", num_experts=2)
    assert [site.name for site in vit.upcycle_report.sites] == ["blocks.3.mlp", "blocks.5.mlp"]
    vit = moezoo.inject_moe(timm.create_model("test_vit"), "every3", num_experts=2)
    assert [name for name in ("1", "2", "5") if hasattr(vit.blocks[int(name)], "entity_moe")] == ["2", "5"]
