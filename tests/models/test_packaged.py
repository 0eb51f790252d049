"""The weights that come with the package: they load without a network and reach what their card says."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.data import input_options, load_dataset
from moezoo.errors import WeightsUnavailable
from moezoo.eval import evaluate
from moezoo.hub.header import header_shapes

NAME = "entity_moe/test_vit"
FOLDER = Path(moezoo.__file__).parent / "weights" / "entity_moe-test_vit"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
STORED = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))

OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
import moezoo

for pretrained in (True, "full"):
    model = moezoo.create_model("entity_moe/test_vit", pretrained=pretrained).eval()
    assert model.weights_origin.startswith("local-dir:"), model.weights_origin
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    assert model.label_names == tuple("0123456789")
"""


def test_it_loads_without_a_network(tmp_path):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=env, timeout=120)
    assert result.returncode == 0, result.stderr


def test_it_reads_the_test_digits_as_well_as_its_card_says():
    model = moezoo.create_model(NAME, pretrained=True)
    splits = load_dataset("digits", **input_options(model))
    found = evaluate(model, splits.test).classification
    right = round(found.top1 * len(splits.test))
    assert round(found.top1, 4) == STORED["metrics"]["test_top1"] > 0.95
    assert round(found.calibration_error, 3) == round(STORED["metrics"]["test_calibration_error"], 3)
    assert f"| test_top1 | {STORED['metrics']['test_top1']:.6g} |" in CARD
    assert f"{found.top1:.2%} of the test images ({right} of {len(splits.test)})" in " ".join(CARD.split())


def test_the_card_states_the_hash_and_the_size_of_the_file():
    content = (FOLDER / "model.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert STORED["weights_sha256"] == digest
    assert f"| model.safetensors | {len(content):,} | `{digest}` |" in CARD
    assert len(content) < 1_000_000


def test_the_card_states_every_seed_and_their_mean():
    rows = re.findall(r"^\| seed (\d) \| ([\d.]+)% \| ([\d.]+)% \|$", CARD, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    means = re.search(r"^\| mean \(lowest to highest\) \| ([\d.]+)% .*\| ([\d.]+)% ", CARD, re.MULTILINE).groups()
    for column, mean in zip((1, 2), means, strict=True):
        assert float(mean) == pytest.approx(sum(float(row[column]) for row in rows) / 3, abs=0.011)


def test_the_stored_configuration_is_the_registered_one():
    stored = moezoo.create_model(f"local-dir:{FOLDER}", pretrained=True)
    model = moezoo.create_model(NAME, pretrained=True)
    assert stored.moezoo_config == model.moezoo_config == moezoo.model_config(NAME)
    assert stored.moezoo_name == NAME
    assert model.moezoo_name == f"{NAME}.last"  # the default variant's own name
    assert all(torch.equal(value, stored.state_dict()[key]) for key, value in model.state_dict().items())
    assert set(header_shapes(FOLDER / "model.safetensors")) == set(model.state_dict())


def test_the_registry_knows_without_looking_that_the_moe_has_weights_and_the_twin_none():
    pretrained = moezoo.list_models("*test_vit*", pretrained=True)
    assert pretrained == [f"{NAME}.last"]
    assert moezoo.list_models("*test_vit*") == [f"{NAME}.{v}" for v in ("all", "dense", "last", "last_half")]
    assert moezoo.is_model_pretrained(NAME)
    assert moezoo.is_model_pretrained("entity_moe_test_vit")
    assert not moezoo.is_model_pretrained(f"{NAME}.dense")
    with pytest.raises(WeightsUnavailable, match="no moezoo weights"):
        moezoo.create_model(f"{NAME}.dense", pretrained="full")


def test_the_backbones_weights_are_still_timms_adapted(hub, tmp_path):
    torch.manual_seed(5)
    source = timm.create_model("test_vit")
    repo = "timm/test_vit.r160_in1k"
    hub.put(repo, {"model.safetensors": save(source.state_dict())}, lfs=("model.safetensors",))
    model = moezoo.create_model(NAME, pretrained="backbone", cache_dir=tmp_path).eval()
    assert model.weights_origin == "backbone:test_vit.r160_in1k"
    torch.manual_seed(5)
    reference = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": source.state_dict()},
        patch_size=4,
        img_size=16,
        in_chans=1,
        num_classes=10,
    ).eval()
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(model.forward_features(images), reference.forward_features(images))
    plain = moezoo.create_model(
        NAME,
        pretrained="backbone",
        cache_dir=tmp_path,
        backbone_args={},
        img_size=160,
        in_chans=3,
        num_classes=1000,
    ).eval()
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(plain(images), source.eval()(images))


def test_it_is_adapted_to_other_tasks():
    packaged = moezoo.create_model(NAME, pretrained=True)
    model = moezoo.create_model(NAME, pretrained=True, num_classes=5, in_chans=3, img_size=32).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert model.label_names is None
    for path, adapter in adapters_of(packaged).items():
        for key, value in adapter.state_dict().items():
            assert torch.equal(model.get_submodule(path).state_dict()[key], value)
