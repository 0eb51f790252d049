"""``moezoo export`` as a person meets it."""

import json

import pytest
from command_line import command, process


@pytest.mark.parametrize(("format", "run"), [("pt2", process), ("onnx", command)])
def test_a_file_and_its_description_are_written(format, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("export", "entity_moe/test_vit", "--pretrained", "--format", format)
    assert result.returncode == 0, result.stderr
    name = f"entity_moe-test_vit.{format}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.json"]
    assert "experts were reached that tracing had not" in result.stdout
    assert "random" not in result.stdout
    assert json.loads((tmp_path / f"{name}.json").read_text())["name"] == "entity_moe/test_vit.last"


def test_options_reach_the_model_and_random_weights_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--img-size", "24", "--set", "num_experts=3", "--static-batch", "--batch-size", "2", "--no-check"]
    result = command("export", "entity_moe_test_vit", "-f", "pt2", "-o", "out/m.pt2", *options)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "out" / "m.pt2.json").read_text())
    assert content["input"]["shape"] == [2, 1, 24, 24]
    assert content["config"]["num_experts"] == 3
    assert content["parity"] is None
    assert "random" in result.stdout
    assert "not checked" in result.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["entity_moe/digits", "--format", "onx"], "onnx"),
        (["entity_moe/digits", "--output", "m.pth"], ".onnx"),
        (["entity_moe/digts"], "entity_moe/digits"),
        (["entity_moe/digits", "--batch-size", "2"], "dynamic_batch"),
        (["entity_moe/digits", "--set", "num_expert=3"], "num_experts"),
        (["local-dir:nothing"], "nothing"),
    ],
)
def test_mistakes_end_in_one_clear_message(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("export", *args)
    assert result.returncode == 1
    assert words in result.stderr
    assert not list(tmp_path.iterdir())
