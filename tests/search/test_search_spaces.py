"""Designs are drawn within their space, fit what is asked for, and say what is wrong."""

import random
from itertools import pairwise

import pytest
import torch

from moezoo.errors import ConfigError, UnknownModelError
from moezoo.factory import create_model
from moezoo.measure import flops
from moezoo.search import ModelSpace, find_space, list_spaces, sample_space
from moezoo.search.choosing import Chance
from moezoo.search.cost import design_cost
from moezoo.search.spaces import regnet_stages

STEPS = "abcde"


def columns(design):
    return [design.values[name] for name in ("widths", "depths", "bottlenecks", "groups")]


@pytest.mark.parametrize("size", ["", ".small"])
@pytest.mark.parametrize("step", STEPS)
def test_anynetx_shares_and_orders_what_its_letter_says(step, size):
    space = find_space(f"anynetx_{step}{size}")
    found = sample_space(space, 40, seed=1)
    assert len({design.key for design in found}) == 40
    for design in found:
        widths, depths, bottlenecks, groups = columns(design)
        assert len(widths) == space.size.stages
        assert all(w % 8 == 0 and 8 <= w <= space.size.max_width for w in widths)
        assert all(1 <= d <= space.size.max_depth for d in depths)
        assert set(bottlenecks) <= {1, 2, 4}
        assert set(groups) <= set(space.size.groups)
        assert all(w // b % g == 0 for w, b, g in zip(widths, bottlenecks, groups, strict=True))
        assert len(set(bottlenecks)) == 1 or step == "a"
        assert len(set(groups)) == 1 or step in "ab"
        assert step not in "de" or all(a <= b for a, b in pairwise(widths))
        assert step != "e" or all(a <= b for a, b in pairwise(depths))
    freed = {"a": 2, "b": 3}.get(step)  # what the letter leaves free does differ within a design
    assert freed is None or any(len(set(columns(design)[freed])) > 1 for design in found)
    assert step in "de" or any(a > b for design in found for a, b in pairwise(design.values["widths"]))
    assert step == "e" or any(a > b for design in found for a, b in pairwise(design.values["depths"]))


@pytest.mark.parametrize("name", ["regnetx", "regnety", "regnetx.small"])
def test_regnet_designs_are_those_of_their_six_numbers(name):
    space = find_space(name)
    for design in sample_space(space, 40):
        numbers = {key: design.values[key] for key in space.PARAMETERS}
        assert regnet_stages(**numbers).to_dict() == {k: design.values[k] for k in ("widths", *list(design.values)[7:])}
        assert sum(design.values["depths"]) == numbers["d"] < 64
        assert numbers["w_0"] <= space.size.max_slope >= numbers["w_a"]
        assert 1.5 <= numbers["w_m"] <= 3
        assert len(design.values["widths"]) == space.size.stages


def test_regnety_has_squeeze_and_excitation():
    values = sample_space("regnety.small", 1)[0].values
    kinds = {type(m).__name__ for m in find_space("regnety.small").on_meta(values).modules()}
    assert "SEModule" in kinds
    assert "SEModule" not in {type(m).__name__ for m in find_space("regnetx.small").on_meta(values).modules()}


def test_samples_of_a_seed_begin_alike_and_constraints_hold():
    few, many = sample_space("anynetx_a.small", 5, seed=3), sample_space("anynetx_a.small", 9, seed=3)
    assert many[:5] == few
    assert sample_space("anynetx_a.small", 5, seed=4) != few
    constraints = ["depths_increase", "widths>=16", "bottlenecks=1", lambda values: sum(values["depths"]) <= 7]
    for design in sample_space("anynetx_a.small", 20, constraints=constraints):
        widths, depths, bottlenecks, _ = columns(design)
        assert min(widths) >= 16
        assert set(bottlenecks) == {1}
        assert depths == sorted(depths)
        assert sum(depths) <= 7


@pytest.mark.parametrize("name", ["entity_moe/digits", "vit_upcycle.small", "anynetx_c.small"])
def test_flops_windows_hold_for_the_models_that_are_trained(name):
    window = (6e5, 3e6)
    space = find_space(name)
    found = sample_space(space, 2, seed=2, flops_window=window)
    for design in found:
        model, splits, _ = space.prepare(design.values, ["training.epochs=1"])
        image = splits.val[0][0][None]
        assert tuple(image.shape[1:]) == tuple(model.pretrained_cfg["input_size"])
        executed = flops(model, image).executed
        assert window[0] <= executed <= window[1]
        cost = design_cost(space, design.values)
        assert cost == (executed, sum(p.numel() for p in model.parameters()))


def test_moe_designs_are_overrides_of_the_registered_model():
    space = find_space("entity_moe/digits")
    (design,) = sample_space(space, 1, constraints=["expert_k=2", "num_experts=4", "inject_layers='all'"])
    recipe = space.recipe(design.values)
    model = create_model("entity_moe/digits", **recipe.model)
    moes = [module for name, module in model.named_modules() if name.endswith("entity_moe")]
    assert len(moes) == design.values["backbone_args.depth"]
    assert model.moezoo_config.expert_k == 2
    assert model.moezoo_config.num_experts == 4
    assert "--set expert_k=2" in space.command(design.values)
    drawn = [space.draw(Chance(random.Random(seed))) for seed in range(60)]
    assert None in drawn, "more experts per token than experts is no design"
    assert all(values["expert_k"] <= values["num_experts"] for values in drawn if values)


def test_log_draws_are_as_likely_for_each_doubling():
    chance = Chance(random.Random(0))
    drawn = [chance.whole("w", 1, 128, log=True) for _ in range(4000)]
    assert min(drawn) == 1
    assert max(drawn) == 128
    per_doubling = [sum(2**k <= w < 2 ** (k + 1) for w in drawn) / len(drawn) for k in range(1, 7)]
    assert max(per_doubling) - min(per_doubling) < 0.05
    assert sum(drawn) / len(drawn) < 40  # uniform draws have a mean of 64.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_space("anynetx_f"), "unknown search space 'anynetx_f'.*Did you mean: anynetx_"),
        (lambda: find_space("entity_moe/test_vit"), "unknown search space"),
        (lambda: find_space("entity_moe/digits", ["num_expert=2,4"]), "'num_expert' is no key.*num_experts"),
        (lambda: find_space("entity_moe/digits", ["num_experts=2,2"]), "each once"),
        (lambda: find_space("entity_moe/digits", ["num_experts"]), "key=value,value"),
        (lambda: ModelSpace("entity_moe/digits", {"training.seed": (0, 1)}), "training.seed is no choice"),
        (lambda: ModelSpace("local-dir:/nowhere", {"num_experts": (1, 2)}), "is trained already"),
        (lambda: sample_space("regnetx.small", 0), "n=0 is not allowed"),
        (lambda: sample_space("regnetx.small", 1, constraints=["w_n>=2"]), "no 'w_n'.*Did you mean: w_m"),
        (lambda: sample_space("regnetx.small", 1, constraints=["width_increase"]), "Did you mean: widths_increase"),
        (lambda: sample_space("regnetx.small", 1, constraints=["d>=99"]), "none of 20000 draws"),
        (lambda: sample_space("regnetx.small", 1, constraints="d>=9"), "a list of constraints"),
        (lambda: sample_space("regnetx.small", 1, constraints=["d=>9"]), "neither FIELD OPERATOR VALUE"),
        (lambda: sample_space("entity_moe/digits", 1, constraints=["expert=glo"]), "meets it. Did you mean: glu.* mlp"),
        (lambda: find_space("entity_moe/test_vit", ["num_experts=2,many"]), "num_experts='many' makes no model"),
        (lambda: sample_space("regnetx.small", 1, flops_window=(5, 2)), r"flops_window=\(5, 2\) is not allowed"),
        (lambda: sample_space("regnetx.small", 1, flops_window=(1, 2)), "in a row lies in it; theirs are from"),
        (lambda: sample_space("regnetx.small", 1, assignments=["num_experts=2"]), None),
        (lambda: find_space("regnetx").prepare(sample_space("regnetx", 1)[0].values), "give a data set"),
        (lambda: find_space("regnetx.small").prepare({}, ["model.x=1"]), "takes training.KEY and data.KEY"),
    ],
)
def test_what_is_wrong_is_said(call, message, monkeypatch):
    monkeypatch.setattr("moezoo.search.sample.COUNTED", 3)
    if message is None:  # unused without a window: nothing is built
        assert call()
        return
    with pytest.raises(ConfigError, match=message):
        call()


def test_null_is_within_no_bound_and_can_be_asked_for():
    k = [d.values["top_k"] for d in sample_space("multiscale_moe/synthetic", 20, constraints=["top_k>=1"])]
    assert set(k) == {1, 2}
    assert sample_space("multiscale_moe/synthetic", 1, constraints=["top_k=null"])[0].values["top_k"] is None


def test_a_small_space_says_how_much_there_is(monkeypatch):
    monkeypatch.setattr("moezoo.search.sample.DRAWS", 200)
    space = find_space("entity_moe/digits", ["num_experts=2,4", "mlp_ratio=1.0,2.0"])
    assert len(sample_space(space, 4)) == 4
    with pytest.raises(ConfigError, match=r"only 4 of n=5 designs were found: .* no more than 4 designs"):
        sample_space(space, 5)
    with pytest.raises(UnknownModelError):
        find_space("entity_moo/digits", ["num_experts=2,4"])


def test_every_space_has_a_help_line_and_builds():
    assert {"entity_moe/digits", "diff_moe/digits", "regnetx", "regnety.small"} <= set(list_spaces())
    for name in ("diff_moe/digits", "vit_upcycle.small"):
        space = find_space(name)
        model, splits, training = space.prepare(sample_space(space, 1)[0].values, ["training.epochs=2"])
        assert training.epochs == 2
        assert space.help
        model(torch.stack([splits.val[i][0] for i in range(2)]))
