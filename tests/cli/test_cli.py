"""The command line as a person meets it: exit codes, no traceback, and in real processes where that differs."""

import os
import subprocess
import sys
import time

import pytest
from command_line import command, process


def test_list_prints_names_and_filters():
    assert "entity_moe/vit_base.last\n" in process("list", "*vit_base*").stdout
    assert command("list", "--family", "entity_moe", "--exclude", "*e*").stdout == ""
    assert "entity_moe/digits" not in command("list", "--pretrained").stdout


def test_a_mistake_ends_the_process_with_one_message():
    result = process("info", "entity_moe/vit_bsae")
    assert result.returncode == 1
    assert result.stderr.startswith("error: UnknownModelError")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["info", "entity_moe/vit_bsae"], "vit_base"),
        (["info", "entity_moe/vit_base.lst"], "Did you mean: last"),
        (["info", "entity_moe/vit_base", "--set", "num_expert=4"], "num_experts"),
        (["info", "entity_moe/vit_base", "--set", "num_experts"], "key=value"),
        (["list", "--family", "entity_mo"], "entity_moe"),
        (["train", "entity_moe/digits", "--set", "training.epoch=3"], "epochs"),
        (["train", "entity_moe/digits", "--config", "nothing.yaml"], "nothing.yaml"),
        (["eval", "local-dir:nothing"], "nothing"),
    ],
)
def test_mistakes_end_in_one_clear_message(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command(*args)
    assert result.returncode == 1
    assert "error:" in result.stderr
    assert words in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    start = time.monotonic()
    result = command("quickstart", "--out", tmp_path / "file" / "out")
    assert result.returncode == 1
    assert "OutputError" in result.stderr
    assert "epoch" not in result.stdout
    assert time.monotonic() - start < 120


def test_info_shows_fields_with_their_meaning_and_overrides():
    out = command("info", "entity_moe_vit_base", "--set", "num_experts=[8]", "--size").stdout
    assert "routed experts" in out
    assert "base_model: vit_base_patch16_224" in out
    assert "num_experts: 8" in out
    assert "added by adapters" in out


def test_pretrained_without_a_network_ends_soon_with_advice(tmp_path):
    """A closed port answers as a machine without a network does; the plain client would retry for 23 seconds."""
    code = (
        "import sys, time; import moezoo.factory; start = time.monotonic()\n"
        "sys.argv = ['moezoo', 'viz', 'entity_moe/test_vit2', '--pretrained', '--set', 'data.name=digits']\n"
        "from moezoo.cli import main\n"
        "try: main()\n"
        "finally: print('seconds', time.monotonic() - start)"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "timm/test_vit2.r160_in1k" in result.stderr
    assert "pretrained=False" in result.stderr
    assert float(result.stdout.split("seconds")[1]) < 10
