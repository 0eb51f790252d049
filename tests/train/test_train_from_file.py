"""The recipe for a model that lies in one file: the file says how it is built, and whether it is the one asked for."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

import moezoo
from moezoo.errors import ConfigError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.single_file import save_single_file
from moezoo.train import resolve_recipe
from moezoo.train.from_file import recipe_for_file

NAME = "entity_moe/digits"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = moezoo.create_model(NAME, num_experts=3)
    return save_single_file(model, tmp_path_factory.mktemp("one") / "digits_model.safetensors", dataset="digits")


def test_the_file_says_how_its_model_is_built(file):
    usual = resolve_recipe(NAME)
    found = recipe_for_file(usual, usual, file)
    assert moezoo.model_config(found.name, **found.model).num_experts == 3
    assert (found.dataset, found.training) == (usual.dataset, usual.training)
    same = resolve_recipe(NAME, assignments=["num_experts=3", "training.batch_size=7"])
    assert recipe_for_file(same, usual, file).training.batch_size == 7


def test_another_model_or_data_set_than_the_files_is_refused(file):
    usual = resolve_recipe(NAME)
    other = resolve_recipe(NAME, assignments=["num_experts=5"])
    with pytest.raises(ConfigError, match="num_experts=5 was asked for, the checkpoint has 3"):
        recipe_for_file(other, usual, file)
    plain = resolve_recipe(NAME, assignments=[f"num_experts={moezoo.model_config(NAME).num_experts}"])
    with pytest.raises(ConfigError, match="the checkpoint has 3"):  # asked for, though it is the default
        recipe_for_file(plain, usual, file)
    another = resolve_recipe("diff_moe/digits")
    with pytest.raises(ConfigError, match="holds entity_moe/digits, which is no diff_moe model"):
        recipe_for_file(another, another, file)
    elsewhere = dataclasses.replace(usual, dataset="cifar10")
    with pytest.raises(ConfigError, match="trained on the data set 'digits'; it cannot be tested on 'cifar10'"):
        recipe_for_file(elsewhere, elsewhere, file)


def test_a_missing_file_says_what_is_there_instead(file, tmp_path):
    usual = resolve_recipe(NAME)
    with pytest.raises(WeightsUnavailable, match=r"no checkpoint '.*cifar10_model.safetensors'.*digits_model.safeten"):
        recipe_for_file(usual, usual, file.with_name("cifar10_model.safetensors"))
    (tmp_path / "a_model.pth").touch()
    with pytest.raises(WeightsUnavailable, match=r"'moezoo convert pth .*a_model.pth' makes one of it"):
        recipe_for_file(usual, usual, tmp_path / "a_model.safetensors")
    with pytest.raises(ConfigError, match=r"'moezoo convert pth .*a_model.pth'"):
        recipe_for_file(usual, usual, tmp_path / "a_model.pth")
    with pytest.raises(WeightsUnavailable, match=r"is a folder.*In that folder: digits_model.safetensors"):
        recipe_for_file(usual, usual, file.parent)
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsCorrupted, match=r"cut.safetensors"):
        recipe_for_file(usual, usual, tmp_path / "cut.safetensors")


def test_weights_alone_leave_the_recipe_as_it_is(tmp_path):
    usual = resolve_recipe(NAME)
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert recipe_for_file(usual, usual, tmp_path / "plain.safetensors") is usual
