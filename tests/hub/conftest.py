from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import moezoo


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _saved(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/digits")
    return moezoo.save_pretrained(
        model,
        tmp_path_factory.mktemp("saved"),
        label_names=[f"digit {i}" for i in range(10)],
        metrics={"top1": 0.5},
    )


@pytest.fixture
def saved(_saved, tmp_path) -> Path:
    """A folder with a saved digits model, the test's own copy."""
    return Path(shutil.copytree(_saved, tmp_path / "saved"))


@pytest.fixture
def model():
    """A digits model with weights unlike those of ``saved``."""
    torch.manual_seed(1)
    return moezoo.create_model("entity_moe/digits")


@pytest.fixture
def untouched(model):
    """After the test, not a bit of ``model`` may have changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield model
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
