"""``moezoo bench``: what is printed and written, and the exit code."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from torch_threads import seeded_on_one_thread  # noqa: F401
from typer.testing import CliRunner

import moezoo
from moezoo.cli.bench import bench
from moezoo.errors import OutputError
from moezoo.measure import parameters

DIGITS = "entity_moe/digits"


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(bench)
    return lambda *args: CliRunner().invoke(app, [*args, "--device", "cpu", "--rounds", "1", "--warmup", "0"])


def test_the_command_prints_and_writes_what_was_asked_for(command, tmp_path):
    out = tmp_path / "b.json"
    result = command(
        DIGITS,
        "-b",
        "1",
        "-b",
        "2",
        "--dtype",
        "bfloat16",
        "--no-compare",
        "--set",
        "num_experts=3",
        "--threads",
        "1",
        "--seed",
        "3",
        "--out",
        str(out),
        "--out",
        str(tmp_path / "b.md"),
    )
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert [(d["batch_size"], d["dtype"], d["role"], d["threads"]) for d in data] == [
        (1, "bfloat16", "model", 1),
        (2, "bfloat16", "model", 1),
    ]
    assert f"{DIGITS}, bfloat16, batch 2" in result.output
    assert "Command: `" in (tmp_path / "b.md").read_text()
    assert data[0]["params_total"] == parameters(moezoo.create_model(DIGITS, num_experts=3)).total


def test_the_command_shows_the_comparison_and_fits_80_columns(command):
    result = command(DIGITS)
    for word in ("model", "dense", "backbone", "GFLOPs", "torch " + torch.__version__):
        assert word in result.output
    assert max(map(len, result.output.splitlines()[2:])) <= 80


def test_the_command_reports_failures_and_exits_with_1(command):
    result = command("entity_moe/nope", DIGITS, "--no-compare")
    assert result.exit_code == 1
    assert "entity_moe/nope (model): UnknownModelError" in result.output
    assert f"{DIGITS}, float32, batch 1" in result.output


def test_the_command_checks_its_files_before_it_measures(command, monkeypatch, tmp_path):
    monkeypatch.setattr("moezoo.measure.bench.run_bench", lambda *_, **__: pytest.fail("something was measured"))
    result = command(DIGITS, "--out", str(tmp_path / "none" / "b.md"))
    assert isinstance(result.exception, OutputError)
