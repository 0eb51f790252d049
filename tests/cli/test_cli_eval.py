"""``moezoo eval``: what it prints and writes, of a model with experts and of one without."""

import json

import pytest
from typer.testing import CliRunner

import moezoo
from moezoo.errors import ConfigError, UnknownModelError
from moezoo.eval import CORRUPTIONS

DIGITS = ("--set", "data.name=digits", "--set", "viz.dpi=40", "--device", "cpu")


@pytest.fixture(scope="module")
def app():
    import typer

    from moezoo.cli.eval import eval_

    app = typer.Typer()
    app.command()(eval_)
    return app


def run(app, *args):
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_folder_gets_every_figure_and_the_pictures(app, tmp_path):
    out = tmp_path / "evaluation of 数字"
    printed = run(app, "entity_moe/test_vit", "--pretrained", "--robustness", "--out", out, "-b", 90, *DIGITS)
    names = {"evaluation.json", "confusion.png", "reliability.png", "expert_load.png", "robustness.png"}
    assert {path.name for path in out.iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    data = json.loads((out / "evaluation.json").read_text())
    assert (data["model"], data["dataset"], data["split"]) == ("entity_moe/test_vit", "digits", "test")
    found = data["classification"]
    assert found["top1"] == data["robustness"]["clean_top1"] == pytest.approx(353 / 360)
    assert sum(each["count"] for each in found["reliability"]) == found["samples"] == 360
    assert set(data["metrics"]) == {"balanced_accuracy", "brier_score", "macro_f1"}
    assert [(each["kind"], each["severity"]) for each in data["robustness"]["corrupted"]] == [
        (kind, i) for kind, severities in CORRUPTIONS.items() for i in range(1, len(severities) + 1)
    ]
    for words in (
        "98.06%",
        "Per class",
        "Calibration",
        "Expert load",
        "Robustness, seed 0",
        "tokens rerouted",
        "noise 3",
    ):
        assert words in printed


def test_a_dense_model_is_evaluated_without_routing_and_one_metric_can_be_chosen(app, tmp_path):
    model = moezoo.create_model("entity_moe/test_vit.dense")
    moezoo.save_pretrained(model, tmp_path / "dense")
    args = (f"local-dir:{tmp_path / 'dense'}", "--metric", "macro_f1", "--split", "val", *DIGITS)
    printed = run(app, *args, "--out", tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["routing"], data["robustness"], list(data["metrics"])) == ([], None, ["macro_f1"])
    assert "Expert load" not in printed
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "report.json"}


def test_mistakes_are_named(app):
    for args, error, says in [
        (("--split", "tset"), ConfigError, "Did you mean: test"),
        (("--metric", "macro_f2"), UnknownModelError, "macro_f1"),
        (("--batch-size", "0"), ConfigError, "batch_size=0"),
        (("--device", "cdua"), ConfigError, "cdua"),
    ]:
        with pytest.raises(error, match=says):
            run(app, "entity_moe/test_vit", "--pretrained", *DIGITS, *args)
