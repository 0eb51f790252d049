"""The script that times a transformer that routes its tokens checks it against timm's and stores a table's figures."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent


def test_it_stores_what_a_table_shows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import attention_routing_vit
    import cards
    import typer

    app = typer.Typer()
    app.command()(attention_routing_vit.main)
    asked = ["--model", "attention_routing/test_vit", "--batch", "2", "--rounds", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, asked, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "bit for bit" in done.output
    data = json.loads((tmp_path / "attention_routing_vit.json").read_text())
    assert data["command"].endswith("--model attention_routing/test_vit --batch 2 --rounds 2")
    assert data["flops"] == sorted(data["flops"], reverse=True)
    assert 1 <= data["flops"][0] < 1.01
    data |= {"flops": [1.0, 0.9, 0.8, 0.75, 0.7, 0.6], "over_full": [1.0, 0.92, 0.8, 0.8, 0.76, 0.7]}
    rows = cards.KINDS["vit_clock"](data).splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["", "0.80", "1.00", "0.80", "0.80", "0.75", ""]

    routed, plain = (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    routed.set_budget = lambda budget: None
    with pytest.raises(AssertionError, match="not equal"):
        attention_routing_vit.check_equal(routed, plain, torch.ones(1, 2))
