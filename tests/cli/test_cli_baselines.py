"""Training with pictures, then ``moezoo eval`` at several budgets and with all baselines."""

import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

from moezoo.cli.baselines import missing_runs, variants_of
from moezoo.cli.eval import eval_
from moezoo.cli.folders import run_folder
from moezoo.cli.train import train
from moezoo.errors import ConfigError, UnknownModelError
from moezoo.train import resolve_recipe, train_recipe

NAME = "attention_routing/digits"
SMALL = ["data.name=digits", "training.epochs=1", "training.batch_size=128", "training.device=cpu"]
SMALL += ["viz.dpi=30", "viz.images=2", "viz.every=1"]


def run(command, *args):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The model and one of its baselines, trained; another one is half trained."""
    folder = tmp_path_factory.mktemp("runs")
    options = [part for assignment in SMALL for part in ("--set", assignment)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("moezoo.viz.run_pictures", lambda *_, **__: [])  # those of the end have their own tests
        printed = run(train, NAME, "--out", run_folder(NAME, folder), *options)
    assert "kFLOPs" in printed
    for variant in (".full_compute", ".no_routing"):
        train_recipe(resolve_recipe(NAME + variant, assignments=SMALL), run_folder(NAME + variant, folder))
    (run_folder(NAME + ".no_routing", folder) / "metrics.json").unlink()
    return folder


def test_training_draws_the_same_images_after_every_epoch_asked_for(runs):
    pictures = run_folder(NAME, runs) / "visualizations"
    assert [path.name for path in pictures.iterdir()] == ["attention_epoch_001.png"]
    assert (pictures / "attention_epoch_001.png").read_bytes().startswith(b"\x89PNG")


def test_every_line_of_the_logs_has_ratio_and_flops_of_baselines_too(runs):
    def last(variant, file):
        return json.loads((run_folder(NAME + variant, runs) / file).read_text().splitlines()[-1])

    for variant, ratio in (("", None), (".full_compute", 1.0)):
        for file in ("steps.jsonl", "metrics.jsonl"):
            line = last(variant, file)
            assert line["flops_per_image"] > 0
            assert 0 < line["routing_ratio"] <= 1
            assert ratio is None or line["routing_ratio"] == ratio
    ungated = last(".no_routing", "metrics.jsonl")
    assert ungated["flops_per_image"] == ungated["val_flops_per_image"] > 0
    assert "routing_ratio" not in ungated
    budget = json.loads((run_folder(NAME, runs) / "metrics.json").read_text())["test"]["budget"]
    assert budget["flops_per_image"]["p95"] >= budget["flops_per_image"]["p50"]


def test_all_baselines_that_were_trained_stand_side_by_side(runs, tmp_path):
    out = tmp_path / "compared"
    printed = run(eval_, NAME, "--all-baselines", "--runs", runs, "--budgets", "0.25,1", "--out", out, "-b", 360)
    words = ["digits", ".full_compute", "MFLOPs", "1.00x", "digits at several budgets"]
    assert all(word in printed for word in words)
    assert f"moezoo train {NAME}.dense --out" in printed
    assert f"moezoo train {NAME}.no_routing --out {run_folder(NAME + '.no_routing', runs)} --resume auto" in printed
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "front.png"}
    data = json.loads((out / "evaluation.json").read_text())
    routed, full = (data["models"][title] for title in ("digits", ".full_compute"))
    assert full["flops_per_image"]["p50"] == full["without_encoder"]["p50"] == full["budget"]["full_flops"]
    assert routed["without_encoder"]["p50"] < routed["flops_per_image"]["p50"] < full["flops_per_image"]["p50"]
    assert full["latency"]["ratio"] == 1
    assert full["budget"]["ratio"]["mean"] == 1
    points = data["fronts"]["digits"]
    assert [(point["setting"], point["budget"]["ratio"]["mean"]) for point in points] == [(0.25, 0.25), (1.0, 1.0)]
    assert set(data["missing"]) == set(variants_of(NAME)) - {NAME, f"{NAME}.full_compute"}


def test_one_model_at_several_budgets(runs, tmp_path):
    stored = f"local-dir:{run_folder(NAME, runs)}"
    out = tmp_path / "evaluated"
    printed = run(eval_, stored, "--budgets", "0,0.5", "--latency", "--out", out, "--metric", "macro_f1", "-b", 360)
    assert "One model at several budgets" in printed
    assert "ms per image, 64 at a time" in printed
    data = json.loads((out / "evaluation.json").read_text())
    assert [point["setting"] for point in data["front"]] == [0.0, 0.5]
    assert set(data["front"][0]["metrics"]) == {"macro_f1"}
    assert data["budget"]["latency"]["batch"] == 64
    assert "front.png" in {path.name for path in out.iterdir()}


def test_what_cannot_be_compared_is_named(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"no variant of .*has a finished run in 'nowhere'") as caught:
        run(eval_, NAME, "--all-baselines", "--runs", "nowhere")
    assert "moezoo train attention_routing/digits.random_routing --out nowhere/" in str(caught.value)
    assert missing_runs([NAME], runs) == {}
    for args, error, says in [
        ((NAME, "--all-baselines", "--pretrained"), ConfigError, "--pretrained is not allowed with --all-baselines"),
        (("local-dir:x", "--all-baselines"), ConfigError, "takes a model's name"),
        (("attention_routing/digit", "--all-baselines"), UnknownModelError, "digits"),
        ((NAME, "--budgets", "0.5;1"), ConfigError, "shares from 0 to 1 with commas"),
        ((NAME, "--budgets", "0.5,1.5"), ConfigError, r"budgets\[1\]=1.5"),
        ((NAME, "--budgets", "0.5,0.50"), ConfigError, "the same share twice"),
        ((f"local-dir:{run_folder(NAME + '.full_compute', runs)}", "--budgets", "1"), ConfigError, "does not"),
    ]:
        with pytest.raises(error, match=says):
            run(eval_, *args)


def test_variants_of_an_architecture_that_is_not_registered_are_those_with_a_folder(tmp_path):
    name = "attention_routing/test_vit"
    for folder in (".random_routing", ".routed", ".rooted"):
        run_folder(name + folder, tmp_path).mkdir()
    assert variants_of(f"{name}.routed", tmp_path) == [name, f"{name}.random_routing", f"{name}.routed"]


def test_runs_of_other_images_are_not_compared(runs, tmp_path):
    for variant in ("", ".full_compute"):
        shutil.copytree(run_folder(NAME + variant, runs), run_folder(NAME + variant, tmp_path))
    file = run_folder(NAME + ".full_compute", tmp_path) / "config.yaml"
    text = file.read_text()
    assert "split_seed: 0" in text
    file.write_text(text.replace("split_seed: 0", "split_seed: 5"))
    with pytest.raises(ConfigError, match=r"test images of .full_compute are not .*data.split_seed: 0 and 5"):
        run(eval_, NAME, "--all-baselines", "--runs", tmp_path)
