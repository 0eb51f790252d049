import dataclasses
import warnings

import pytest
import yaml

from moezoo.errors import ConfigError, MoeZooWarning, UnknownModelError
from moezoo.recipes import find_recipe, list_recipes
from moezoo.registry import is_model, model_config
from moezoo.train import TrainingConfig, VizConfig, create_for, resolve_recipe


def test_preset_then_file_then_flags(tmp_path):
    preset = resolve_recipe("entity_moe/digits")
    file = tmp_path / "mine.yaml"
    file.write_text("model: {num_experts: 6}\ntraining: {lr: 5e-4, epochs: 7}\nviz: {dpi: 80}\n")
    recipe = resolve_recipe("entity_moe/digits", file=file, assignments=["training.epochs=9", "expert_k=2"])
    assert (recipe.training.epochs, recipe.training.lr, recipe.viz.dpi) == (9, 5e-4, 80)
    assert recipe.model == {"num_experts": 6, "expert_k": 2}
    assert recipe.training.batch_size == preset.training.batch_size
    assert recipe.dataset == "digits"


def test_the_dotted_paths_of_a_document_set_fields_of_the_model(tmp_path):
    name = "attention_routing/digits"
    file = tmp_path / "mine.yaml"
    file.write_text("model: {router: {temperature: 0.5, mode: gumbel}}\n")
    assignments = ["data.name=digits", "model.router.mode=sigmoid_gate", "dataset.patch_grid_size=8"]
    recipe = resolve_recipe(name, file=file, assignments=assignments)
    assert recipe.model == {"temperature": 0.5, "router_mode": "sigmoid_gate", "patch_grid_size": 8}
    for assignment, says in [
        ("dataset.patch_grid=8", r"Did you mean: dataset\.patch_grid_size"),
        ("model.router.mod=gumbel", r"Did you mean: router\.mode"),
        ("router.mode=gumbl", "Did you mean: gumbel"),
    ]:
        with pytest.raises(ConfigError, match=says):
            resolve_recipe(name, assignments=["data.name=digits", assignment])


def test_variants_share_the_recipe_of_their_architecture():
    assert resolve_recipe("entity_moe_digits.dense").training == resolve_recipe("entity_moe/digits").training


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("epochs=3", r"training\.epochs"),
        ("trianing.epochs=3", "training"),
        ("training.epoch=3", "Did you mean: epochs"),
        ("viz.image=3", "Did you mean: images"),
        ("num_expert=3", "num_experts"),
        ("model.num_expert=3", "num_experts"),
        ("training.epochs=three", "epochs='three'"),
        ("training=3", r"'training' is a section, of keys such as training\.key"),
        ("viz.dpi=7", "dpi"),
    ],
)
def test_a_wrong_key_or_value_is_an_error_with_the_nearest_spelling(assignment, says):
    with pytest.raises(ConfigError, match=says):
        resolve_recipe("entity_moe/digits", assignments=[assignment])


def test_a_wrong_section_of_a_file_is_an_error(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optimiser: {lr: 1.0}\n")
    with pytest.raises(ConfigError, match="optimiser"):
        resolve_recipe("entity_moe/digits", file=file)
    file.write_text("model: 3\n")
    with pytest.raises(ConfigError, match="'model' must be a mapping"):
        resolve_recipe("entity_moe/digits", file=file)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        resolve_recipe("entity_moe/digits", file=tmp_path / "absent.yaml")


def test_a_model_without_a_recipe_asks_for_a_data_set_and_trains_on_one_given():
    with pytest.raises(ConfigError, match=r"data\.name=digits"):
        resolve_recipe("entity_moe/vit_tiny")
    recipe = resolve_recipe("entity_moe/vit_tiny", assignments=["data.name=digits", "data.augment=false"])
    assert (recipe.dataset, recipe.data_options) == ("digits", {"augment": False})


def test_an_unknown_model_is_an_error():
    with pytest.raises(UnknownModelError, match="entity_moe/digits"):
        resolve_recipe("entity_mo/digits")


def test_the_resolved_recipe_written_out_resolves_to_itself(tmp_path):
    recipe = resolve_recipe("entity_moe/digits", assignments=["training.epochs=3", "num_experts=6"])
    config = model_config(recipe.name, **recipe.model)
    file = tmp_path / "config.yaml"
    file.write_text(recipe.to_yaml(config))
    written = yaml.safe_load(file.read_text())
    assert set(written["training"]) == {f.name for f in dataclasses.fields(TrainingConfig)}
    assert set(written["viz"]) == {f.name for f in dataclasses.fields(VizConfig)}
    assert written["data"] == {
        "name": "digits", "augment": True, "degrees": 12.0, "shift": 0.1, "zoom": 0.1, "split_seed": 0
    }  # fmt: skip
    again = resolve_recipe("entity_moe/digits", file=file)
    assert again.training == recipe.training
    assert model_config(again.name, **again.model) == config


def test_a_stored_run_brings_its_data_section(tmp_path):
    recipe = resolve_recipe("entity_moe/digits", assignments=["data.split_seed=3"])
    (tmp_path / "config.yaml").write_text(recipe.to_yaml())
    stored = resolve_recipe(f"local-dir:{tmp_path}", assignments=["viz.images=4"])
    assert (stored.dataset, stored.data_options["split_seed"], stored.viz.images) == ("digits", 3, 4)
    assert stored.model == {}


def test_a_stored_model_that_is_not_there_and_its_keys_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        resolve_recipe(f"local-dir:{tmp_path / 'absent'}")
    (tmp_path / "config.yaml").write_text(resolve_recipe("entity_moe/digits").to_yaml())
    with pytest.raises(ConfigError, match=r"--set model\.num_classes="):
        resolve_recipe(f"local-dir:{tmp_path}", assignments=["num_classes=3"])


def test_a_complete_file_of_another_variant_is_not_taken_without_a_word(tmp_path):
    file = tmp_path / "config.yaml"
    for name, other in (("entity_moe/digits", "entity_moe/digits.dense"), ("entity_moe/digits.dense",) * 2):
        file.write_text(resolve_recipe(name).to_yaml(model_config(name), pretrained=True))
        assert file.read_text().startswith(f"# moezoo train {name} --config config.yaml --pretrained\n")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            resolve_recipe(other, file=file)
        assert [("dense=False" in str(w.message), w.category) for w in said] == (
            [(True, MoeZooWarning)] if name != other else []
        )


def test_a_shortened_run_has_a_warmup_that_fits_unless_one_was_asked_for(tmp_path):
    preset = resolve_recipe("entity_moe/digits").training
    assert preset.warmup_epochs == 3
    assert resolve_recipe("entity_moe/digits", assignments=["training.epochs=10"]).training.warmup_epochs == 3
    assert resolve_recipe("entity_moe/digits", assignments=["training.epochs=1"]).training.warmup_epochs == 0.5
    (tmp_path / "mine.yaml").write_text("training: {warmup_epochs: 2}")
    with pytest.raises(ConfigError, match="warmup_epochs"):
        resolve_recipe("entity_moe/digits", file=tmp_path / "mine.yaml", assignments=["training.epochs=1"])


def test_a_layer_that_is_not_there_is_found_before_the_training():
    with pytest.raises(ConfigError, match=r"viz\.layer='blocks\.9'.*blocks\.3\.entity_moe\.moe"):
        create_for(resolve_recipe("entity_moe/digits", assignments=["viz.layer=blocks.9"]))
    for name in ("entity_moe/digits", "entity_moe/digits.dense"):
        create_for(resolve_recipe(name, assignments=["viz.layer=blocks.3"]))


def test_every_recipe_of_the_package_belongs_to_a_model_and_is_valid():
    assert "entity_moe/digits" in list_recipes()
    for name in list_recipes():
        assert is_model(name)
        assert resolve_recipe(name).dataset
        assert set(find_recipe(name)) <= {"model", "data", "training", "viz"}
