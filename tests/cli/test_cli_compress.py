"""``moezoo compress``: the table, the JSON and the folder it leaves."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import moezoo
from moezoo.backbones.inputs import example_images
from moezoo.cli import app
from moezoo.compress import is_quantized
from moezoo.errors import ConfigError
from moezoo.measure import flops


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("compress") / "run"
    moezoo.save_pretrained(moezoo.create_model("attention_routing/digits"), folder)
    (folder / "config.yaml").write_text("data: {name: digits}\n")
    return f"local-dir:{folder}"


def run(*arguments):
    return CliRunner().invoke(app, ["compress", *map(str, arguments)], catch_exceptions=False)


def test_prunes_quantises_judges_and_saves(saved, tmp_path):
    out = tmp_path / "small"
    result = run(saved, "--prune-hidden", "0.3", "--quantize", "int8_dynamic", "-o", out, "--rounds", "2", "-b", "4")
    assert result.exit_code == 0, result.output
    assert "times smaller" in result.output
    told = json.loads((out / "compression.json").read_text())
    first, second = told["rows"]
    assert (told["quantize"], told["prune_hidden"], told["prune_experts"]) == ("int8_dynamic", 0.3, None)
    assert told["dataset"] == "digits"
    assert first["times_smaller"] == 1
    assert second["times_smaller"] > 3.5
    assert second["flops"] < first["flops"]
    assert abs(second["score"] - first["score"]) < 0.2
    assert 0.5 < second["same_experts"] <= 1
    model = moezoo.create_model(f"local-dir:{out}", pretrained=True)
    assert is_quantized(model)
    again = CliRunner().invoke(app, ["eval", f"local-dir:{out}"], catch_exceptions=False)
    assert f"{100 * second['score']:.2f}" in again.output, again.output
    config = json.loads((out / "config.json").read_text())
    assert config["metrics"] == {"dataset": "digits", f"test_{told['score']}": second["score"]}
    assert (out / "model.safetensors").stat().st_size == pytest.approx(second["file_bytes"], rel=0.01)


@pytest.mark.slow
def test_keeps_the_experts_that_are_used_most(tmp_path):
    torch.manual_seed(0)
    moezoo.save_pretrained(moezoo.create_model("entity_moe/digits"), tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("data: {name: digits}\n")
    result = run(f"local-dir:{tmp_path / 'run'}", "--prune-experts", "2", "-o", tmp_path / "small", "--rounds", "2")
    assert result.exit_code == 0, result.output
    model = moezoo.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True)
    assert model.moezoo_config.num_experts == 2


@pytest.fixture(scope="module")
def sightings(tmp_path_factory):
    """A model of several modalities, and a data set for it without validation images."""
    folder = tmp_path_factory.mktemp("sightings") / "run"
    moezoo.save_pretrained(moezoo.create_model("multiscale_moe/synthetic", num_classes=2), folder)
    data = "{name: trispectral, train_identities: 2, val_identities: 0, test_identities: 2, images_per_camera: 2}"
    (folder / "config.yaml").write_text(f"data: {data}\n")
    return folder


def test_models_of_several_modalities_are_counted_and_judged_on_sightings(sightings, tmp_path):
    model = moezoo.create_model(f"local-dir:{sightings}", pretrained=True).eval()
    counted = flops(model, example_images(model, 2)).executed / 2
    for more in (["--no-score"], []):
        out = tmp_path / "small"
        result = run(
            *(f"local-dir:{sightings}", "--quantize", "int8_weight_only", "-o", out, "--rounds", "1", "-b", "2", *more)
        )
        assert result.exit_code == 0, result.output
        told = json.loads((out / "compression.json").read_text())
        assert told["rows"][0]["flops"] == counted
        assert (told["rows"][1]["score"] is None) == bool(more)
        assert "trispectral" in (out / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"split='val' is not allowed: 'trispectral \(generated\)' has no"):
        run(f"local-dir:{sightings}", "--quantize", "int8_dynamic", "-o", tmp_path, "--split", "val")


def test_without_a_score_no_data_is_read(saved, tmp_path):
    out = tmp_path / "small"
    result = run(saved, "--quantize", "int8_weight_only", "--no-score", "-o", out, "--rounds", "1", "-b", "2")
    assert result.exit_code == 0, result.output
    told = json.loads((out / "compression.json").read_text())
    assert told["dataset"] is None
    assert [row["score"] for row in told["rows"]] == [None, None]
    assert told["rows"][0]["flops"] == pytest.approx(told["rows"][1]["flops"], rel=0.2)


def test_what_makes_no_sense_is_refused(saved, tmp_path):
    with pytest.raises(ConfigError, match=r"out=.*is the folder of the model itself"):
        run(saved, "--quantize", "int8_dynamic", "-o", saved.removeprefix("local-dir:"))
    with pytest.raises(ConfigError, match="nothing is to be done"):
        run(saved, "-o", tmp_path)
    with pytest.raises(ConfigError, match="random weights"):
        run("entity_moe/digits", "--quantize", "int8_dynamic", "-o", tmp_path)
    with pytest.raises(ConfigError, match=r"quantize='int5'"):
        run(saved, "--quantize", "int5", "--no-score", "-o", tmp_path)
    with pytest.raises(ConfigError, match="--no-score"):
        run(saved, "--prune-experts", "1", "--no-score", "-o", tmp_path)
