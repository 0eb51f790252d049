"""Both families' recipes on handwritten digits, beside their dense twins."""

import json

import pytest
from dataset_folders import few_digits
from moe_vit_toys import NAMES
from typer.testing import CliRunner

from moezoo.train import resolve_recipe


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_trains_by_the_same_recipe(name):
    moe, twin = resolve_recipe(name), resolve_recipe(f"{name}.dense")
    assert moe.dataset == twin.dataset == "digits"
    assert moe.training == twin.training


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quickstart_compares_with_the_twin(name, tmp_path, monkeypatch):
    import typer

    from moezoo.cli.quickstart import quickstart

    few_digits(monkeypatch)
    app = typer.Typer()
    app.command()(quickstart)
    options = ["--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--set", "viz.dpi=40"]
    result = CliRunner().invoke(app, ["--model", name, "--out", str(tmp_path), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "comparison.json").read_text())
    assert {row["model"] for row in figures.values()} == {name, f"{name}.dense"}
    assert (tmp_path / "routing.png").is_file()
