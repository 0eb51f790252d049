"""Stored models of every older format still load; the fixtures are never written anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import moezoo
from moezoo.errors import ConfigError
from moezoo.hub import pull_model
from moezoo.hub.schema import FORMAT_VERSION
from moezoo.hub.stored import read_stored

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
def test_a_model_stored_in_an_older_format_answers_as_it_did(version, tmp_path):
    folder = FIXTURES / f"format_{version}"
    model = moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        logits = model(torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16))
    want = json.loads((folder / "expected.json").read_text())["logits"]
    torch.testing.assert_close(logits, torch.tensor(want))
    stored = read_stored(f"local-dir:{folder}")
    assert stored.label_names == ("one", "two", "three")
    assert stored.metrics["test_top1"] == 0.5
    copy = pull_model(f"local-dir:{folder}", tmp_path / "copy")
    assert (copy / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert moezoo.create_model(f"local-dir:{copy}", pretrained=True).label_names == stored.label_names
    moezoo.save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION


def test_every_older_format_has_its_fixture_and_knows_no_later_keys(tmp_path):
    assert sorted(path.name for path in FIXTURES.iterdir()) == [f"format_{i}" for i in range(1, FORMAT_VERSION)]
    folder = Path(shutil.copytree(FIXTURES / "format_1", tmp_path / "old"))
    content = json.loads((folder / "config.json").read_text())
    for later in ({"flops": {}}, {"routing": []}, {"backbone": None}):
        (folder / "config.json").write_text(json.dumps({**content, **later}))
        with pytest.raises(ConfigError, match=f"unknown key '{next(iter(later))}'"):
            read_stored(f"local-dir:{folder}")
    two = Path(shutil.copytree(FIXTURES / "format_2", tmp_path / "two"))
    (two / "config.json").write_text(
        json.dumps({**json.loads((two / "config.json").read_text()), "tokenizer_sha256": None})
    )
    with pytest.raises(ConfigError, match="unknown key 'tokenizer_sha256'"):
        read_stored(f"local-dir:{two}")
    three = Path(shutil.copytree(FIXTURES / "format_3", tmp_path / "three"))
    (three / "config.json").write_text(
        json.dumps({**json.loads((three / "config.json").read_text()), "compression": None})
    )
    with pytest.raises(ConfigError, match="unknown key 'compression'"):
        read_stored(f"local-dir:{three}")
    (folder / "config.json").write_text(json.dumps({**content, "weights_sha256": {"model.safetensors": "0" * 64}}))
    with pytest.raises(ConfigError, match="weights_sha256 must be a string"):
        read_stored(f"local-dir:{folder}")
