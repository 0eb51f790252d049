"""What an ablation is told to vary: files, ``--vary``, and what is wrong with them. Nothing is trained."""

import dataclasses
import io
import re

import pytest
import yaml
from rich.console import Console

from moezoo.ablate import resolve_plan
from moezoo.ablate.cells import file_name, settings_of
from moezoo.ablate.measured import Measured
from moezoo.ablate.progress import AblationBar
from moezoo.ablate.result import Ablation, make_rows
from moezoo.ablate.tables import ablation_table
from moezoo.errors import ConfigError, UnknownModelError
from moezoo.recipes import find_ablation, find_recipe, list_recipes
from moezoo.registry import list_models

NAME = "attention_routing/digits"
VIT = "entity_moe/digits"


def values(plan):
    return {factor.name: factor.values for factor in plan.factors}


@pytest.mark.parametrize(
    "name", [n for n in list_models(family="attention_routing") if "." not in n and find_recipe(n)]
)
def test_the_familys_own_grid_fits_every_model_with_a_recipe(name):
    plan = resolve_plan(name)
    assert "attention_routing/ablation" not in list_recipes()
    wanted = {"threshold", "budget", "patch_grid_size", "temperature", "variant", "router_mode", "aggregator"}
    assert wanted <= set(values(plan))
    settings = settings_of(plan)
    runs = {cell.folder for setting in settings for cell in setting.cells}
    trained = [s for s in settings if not s.is_dial]
    assert len(runs) == len([s for s in trained if not s.is_base]) + 1, "what equals the base is one run"
    for factor in plan.factors:
        if not factor.is_dial:
            assert sum(s.is_base for s in trained if s.factor == factor.name) == 1


def test_what_a_model_of_the_family_has_not_is_left_out_and_said(caplog):
    with caplog.at_level("INFO", "moezoo"):
        plan = resolve_plan("attention_routing/vit_tiny", assignments=["data.name=digits", "num_classes=10"])
    variants = values(plan)["variant"]
    assert {"base", "cheap_compute"} <= set(variants)
    assert "full_compute" not in variants
    assert {"budget", "threshold"} <= set(values(plan))
    assert "patch_grid_size" not in values(plan)
    assert "has not all that its family's ablation varies: patch_grid_size" in caplog.text
    with caplog.at_level("INFO", "moezoo"):
        assert "threshold" not in values(resolve_plan(f"{NAME}.random_routing"))
        assert not {"budget", "threshold"} & set(values(resolve_plan(f"{NAME}.full_compute")))
    assert f"{NAME}.full_compute has not all that its family's ablation varies: threshold, budget" in caplog.text
    with pytest.raises(ConfigError, match="patch_grid_size"):
        resolve_plan("attention_routing/vit_tiny", vary=["patch_grid_size=2"], assignments=["data.name=digits"])


def test_the_file_goes_before_the_familys_and_the_command_line_before_both(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"training": {"epochs": 3}, "model": {"embed_dim": 8}}))
    plan = resolve_plan(NAME, file=file, assignments=["training.batch_size=7"])
    assert set(values(plan)) == set(find_ablation("attention_routing")["vary"])
    recipe = plan.recipe()
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.model["embed_dim"]) == (3, 7, 8)
    file.write_text(yaml.safe_dump({"vary": {"temperature": [1.0, 2.0]}}))
    assert values(resolve_plan(NAME, file=file)) == {"temperature": (1.0, 2.0)}
    plan = resolve_plan(NAME, file=file, vary=["patch_grid_size=2, [2, 4]", "training.lr=1e-3"])
    assert values(plan) == {"patch_grid_size": (2, [2, 4]), "training.lr": (0.001,)}
    assert list(values(resolve_plan(NAME, only=["budget", "temperature"]))) == ["budget", "temperature"]


def test_any_model_can_be_ablated_by_any_of_its_keys():
    vary = ["expert_k=1,2", "variant=dense", "training.lr=1e-3", "data.augment=false"]
    plan = resolve_plan(VIT, vary=vary, assignments=["expert_k=1", "training.lr=2e-3"])
    settings = settings_of(plan)
    assert [(s.factor, s.value, s.is_base) for s in settings] == [
        ("base", "", True),
        ("expert_k", 1, True),
        ("expert_k", 2, False),
        ("variant", "base", True),
        ("variant", "dense", False),
        ("training.lr", 0.001, False),
        ("training.lr", 0.002, True),
        ("data.augment", True, True),
        ("data.augment", False, False),
    ]


def test_runs_that_would_be_the_same_run_are_one():
    vary = ["compute=full", "variant=full_compute", "patch_grid_size=4,[4,4]"]
    plan = resolve_plan(NAME, vary=vary, assignments=["patch_grid_size=4"])
    by_name = {(s.factor, str(s.value)): s.cells for s in settings_of(plan)}
    assert by_name["compute", "full"] == by_name["variant", "full_compute"]
    assert by_name["patch_grid_size", "4"] == by_name["base", ""]
    assert by_name["patch_grid_size", "[4, 4]"] != by_name["base", ""]
    assert by_name["patch_grid_size", "[4, 4]"][0].folder == "patch_grid_size=4x4/seed-0"


def test_values_that_are_no_file_names_get_folders_that_differ():
    names = [file_name(f"data.root={root}") for root in ("a/b", "a-b", "a\\b", "../a", "ä", "a" * 200)]
    assert len(set(names)) == len(names)
    assert all("/" not in name and "\\" not in name and len(name) < 100 for name in names)
    assert names[1] == "data.root=a-b"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vary": ["temprature=1,2"]}, "Did you mean: temperature"),
        ({"vary": ["bugdet=1"]}, "Did you mean: budget"),
        ({"vary": ["trainin.lr=1"]}, "Did you mean: training.lr"),
        ({"vary": ["training.seed=1,2"]}, "--seeds"),
        ({"vary": ["temperature"]}, "factor=value,value"),
        ({"vary": ["temperature="]}, "factor=value,value"),
        ({"vary": ["temperature=1", "temperature=2"]}, "given twice"),
        ({"vary": ["temperature=1,1"]}, "has 1 twice"),
        ({"vary": ["temperature=[1"]}, "not valid YAML"),
        ({"only": ["temprature"]}, "Did you mean: temperature"),
        ({"assignments": ["training.epoch=1"]}, "Did you mean: epochs"),
        ({"seeds": 0}, "seeds=0"),
        ({"file": "vary: {temperature: 1}"}, "temperature must be a list"),
        ({"file": "vary: {}"}, "vary must map factors"),
        ({"file": "varies: {temperature: [1]}"}, "Did you mean: vary"),
        ({"file": "training: 3"}, "'training' must be a mapping"),
        ({"file": "training: {epochs: 0}"}, "epochs=0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_named(tmp_path, options, said):
    if "file" in options:
        (tmp_path / "mine.yaml").write_text(options["file"])
        options = {"file": tmp_path / "mine.yaml"}
    with pytest.raises(ConfigError) as error:
        resolve_plan(NAME, **options)
    assert said in str(error.value)


def test_a_model_that_is_unknown_stored_or_has_no_factors_is_refused():
    with pytest.raises(UnknownModelError, match="Did you mean"):
        resolve_plan("attention_routing/digitz")
    with pytest.raises(ConfigError, match="trained already"):
        resolve_plan("local-dir:runs/x")
    with pytest.raises(ConfigError, match=r"nothing says what to vary in 'entity_moe/digits'.*--vary"):
        resolve_plan(VIT)
    with pytest.raises(UnknownModelError, match="Did you mean: dense"):
        settings_of(resolve_plan(NAME, vary=["variant=dens"]))


def measured(val, flops, **more):
    return Measured(val, 0.5, "val_accuracy", "test_accuracy", 1.0, flops_p50=flops, flops_p95=flops, **more)


def test_of_equals_the_cheapest_is_chosen_and_the_table_shows_it():
    plan = resolve_plan(NAME, vary=["temperature=0.5,2", "router_mode=gumbel"], assignments=["temperature=1.0"])
    settings = settings_of(plan)
    routed = measured(0.9, 2e6, routing_ratio=0.25, routing_ratio_sd=0.03)
    results = [measured(0.9, 3e6), routed, measured(0.9, 3e6), measured(None, None), *[measured(0.8, 1.0)] * 2]
    ablation = Ablation(plan, make_rows([(s, (r,)) for s, r in zip(settings, results, strict=True)]))
    assert [(row.value, row.chosen) for row in ablation.rows[:4]] == [
        ("", False),
        (0.5, True),
        (1.0, False),
        (2, False),
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(ablation_table(ablation))
    said = console.file.getvalue()
    assert re.search(r"^ *1.0 • +90.0 +50.0 +- +3.00 +3.00 +1.0 *$", said, re.M)
    assert re.search(r"^ *0.5 +90.0 +50.0 +25.0 ±3.0 +2.00 +2.00 +1.0 *$", said, re.M)
    assert "\n learnable_threshold •" in said
    spread = (measured(0.9, 12.3e6, routing_ratio=0.5, routing_ratio_sd=0.2), measured(0.5, 45.6e6))
    twice = Ablation(dataclasses.replace(plan, seeds=2), make_rows([(s, spread) for s in settings]))
    console.print(ablation_table(twice))
    assert "70.0 ±28.3" in console.file.getvalue()
    assert "…" not in console.file.getvalue()  # of several seeds too it fits
    points = ablation.points()
    assert [(p["factor"], p["value"], p["flops_per_image"]) for p in points][:2] == [
        ("temperature", 0.5, 2e6),
        ("temperature", 1.0, 3e6),
    ]


def test_the_bar_moves_with_the_steps_and_leaves_a_line_for_every_result():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    bar = AblationBar("digits", console)
    bar.begin(2.0, 1)
    run = bar.run("temperature=2.0/seed-0")
    run.start(2, 5)
    for _ in range(5):
        run.step(0.1, ())
    assert bar._bar.tasks[0].completed == pytest.approx(0.5)
    bar.measured("temperature=2.0/seed-0", measured(0.75, 1e6, routing_ratio=0.5), 1.0)
    assert bar._bar.tasks[0].percentage == 50
    bar.stop()
    said = console.file.getvalue()
    assert "1 of the runs are finished already" in said
    assert "temperature=2.0/seed-0  val 75.0%  test 50.0%  routed 50.0%" in said
