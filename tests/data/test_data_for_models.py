"""A model and a data set brought together by a recipe."""

import pytest
import torch
from dataset_folders import flickr8k, image_folder

from moezoo.errors import ConfigError
from moezoo.train import create_for, resolve_recipe


def test_images_are_prepared_by_the_models_own_configuration(tmp_path):
    root = image_folder(tmp_path)
    assignments = ["data.name=image_folder", f"data.root={root}", "data.re_prob=0.25", "num_classes=2"]
    model, splits = create_for(resolve_recipe("entity_moe/test_vit", assignments=assignments))
    config = model.pretrained_cfg
    images, labels = next(iter(torch.utils.data.DataLoader(splits.val, 4)))
    assert images.shape[1:] == tuple(config["input_size"])
    assert splits.mean == tuple(config["mean"])
    crop = splits.val.transform.transform.transforms
    assert crop[0].size == int(config["input_size"][-1] / config["crop_pct"])
    assert model(images).shape == (4, splits.num_classes)
    assert labels.tolist() == [0, 0, 0, 0]


def test_a_classifier_needs_labels_and_as_many_as_it_has_classes(tmp_path):
    flickr8k(tmp_path / "flickr")
    captioned = ["data.name=flickr8k", f"data.root={tmp_path / 'flickr'}"]
    with pytest.raises(ConfigError, match="'flickr8k' has no class labels"):
        create_for(resolve_recipe("entity_moe/digits", assignments=captioned))
    pets = ["data.name=image_folder", f"data.root={image_folder(tmp_path / 'pets')}"]
    with pytest.raises(ConfigError, match="num_classes=10 does not fit"):
        create_for(resolve_recipe("entity_moe/digits", assignments=pets))
    with pytest.raises(ConfigError, match=r"Did you mean: re_prob"):
        create_for(resolve_recipe("entity_moe/digits", assignments=[*pets, "data.re_porb=1"]))
