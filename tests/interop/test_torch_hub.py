"""``torch.hub.load`` on a copy of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import moezoo

ROOT = str(Path(__file__).parents[2])


def test_nothing_but_models_is_offered():
    offered = torch.hub._import_module("hubconf", f"{ROOT}/hubconf.py")  # what torch.hub.list looks through
    names = {name for name, value in vars(offered).items() if callable(value) and not name.startswith("_")}
    assert {"create_model", "entity_moe_vit_base", "entity_moe_vit_base.all"} <= names
    assert all(name == "create_model" or moezoo.is_model(name) for name in names)


def test_models_load_by_their_names():
    model = torch.hub.load(ROOT, "entity_moe_test_vit", source="local", pretrained=True).eval()
    assert model.weights_origin.startswith("local-dir:")
    assert model(torch.randn(1, 1, 16, 16)).shape == (1, 10)
    model = torch.hub.load(ROOT, "entity_moe_test_vit.dense", source="local", num_classes=3)
    assert (model.moezoo_name, model.moezoo_config.num_classes) == ("entity_moe/test_vit.dense", 3)
    model = torch.hub.load(ROOT, "create_model", "entity_moe/test_vit2", source="local")
    assert model.moezoo_name == "entity_moe/test_vit2"
    with pytest.raises(RuntimeError, match="entity_moe_vit_bsae"):
        torch.hub.load(ROOT, "entity_moe_vit_bsae", source="local")
