import json
import sys

import pytest
import torch
from dataset_folders import few_digits
from typer.testing import CliRunner

import moezoo
from moezoo.errors import CheckpointError, ConfigError, NonFiniteError, OutputError

FAST = [
    "--set",
    "training.epochs=1",
    "--set",
    "training.warmup_epochs=0",
    "--set",
    "viz.dpi=40",
    "--set",
    "viz.images=3",
]


@pytest.fixture(scope="module", autouse=True)
def digits():
    """A few of them."""
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        yield


@pytest.fixture(scope="module")
def app():
    import typer

    from moezoo.cli.eval import eval_
    from moezoo.cli.quickstart import quickstart
    from moezoo.cli.train import train
    from moezoo.cli.viz import viz

    app = typer.Typer()
    for name, command in {"quickstart": quickstart, "train": train, "eval": eval_, "viz": viz}.items():
        app.command(name)(command)
    return app


def run(app, *args):
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def finished(app, tmp_path_factory):
    """One epoch of the quickstart: what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    return run(app, "quickstart", "--out", folder, "--seed", 7, *FAST), folder


def test_both_models_are_complete_folders(finished):
    _, folder = finished
    for model in ("moe", "dense"):
        names = {path.name for path in (folder / model).iterdir()}
        assert names == {
            "config.yaml",
            "config.json",
            "model.safetensors",
            "metrics.json",
            "metrics.jsonl",
            "steps.jsonl",
            "checkpoints",
            "README.md",
            "preprocessor_config.json",
        }
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == {"training", "confusion", "predictions", "routing", "attention"} | {
        f"expert_{what}" for what in ("load", "balance", "regions", "classes")
    }


def test_the_table_compares_equal_costs(finished):
    output, folder = finished
    figures = json.loads((folder / "comparison.json").read_text())
    moe, dense = figures["MoE"], figures["dense twin"]
    assert moe["parameters"] > dense["parameters"]
    assert moe["active_parameters"] == pytest.approx(dense["active_parameters"], rel=0.02)
    assert moe["executed_flops_per_image"] == pytest.approx(dense["executed_flops_per_image"], rel=0.02)
    cost = json.loads((folder / "moe" / "config.json").read_text())["flops"]  # the model's card shows them
    assert cost["executed"] == pytest.approx(moe["executed_flops_per_image"], rel=0.02)
    assert cost["dense_twin"] == pytest.approx(dense["executed_flops_per_image"], rel=1e-6)
    assert dense["latency_ratio"] == 1.0
    assert f"{moe['parameters']:,}" in output
    assert f"{moe['test_accuracy']:.2%}" in output
    assert "Expert load" in output


def test_it_says_that_the_reloaded_logits_are_equal_and_they_are(finished):
    output, folder = finished
    assert output.count("logits equal bit for bit") == 2
    one, two = (moezoo.create_model(f"local-dir:{folder / 'moe'}", pretrained=True).eval() for _ in range(2))
    images = torch.randn(2, *one.pretrained_cfg["input_size"])
    assert torch.equal(one(images), two(images))
    assert one.label_names == tuple("0123456789")


def test_both_runs_had_the_same_settings(finished):
    import yaml

    _, folder = finished
    moe, dense = (yaml.safe_load((folder / m / "config.yaml").read_text()) for m in ("moe", "dense"))
    assert moe["training"] == dense["training"]
    assert moe["training"]["seed"] == 7
    assert {key for key in moe["model"] if moe["model"][key] != dense["model"][key]} == {"dense"}


def test_eval_of_the_folder_repeats_the_test_accuracy(app, finished, tmp_path):
    _, folder = finished
    output = run(app, "eval", f"local-dir:{folder / 'moe'}", "--out", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    expected = json.loads((folder / "moe" / "metrics.json").read_text())["test"]
    assert report["classification"]["top1"] == expected["classification"]["top1"]
    assert report["routing"][0]["share"] == expected["routing"][0]["share"]
    assert "Per class" in output


def test_viz_of_the_folder_draws_routing(app, finished, tmp_path):
    _, folder = finished
    args = ["--set", "viz.images=2", "--set", "viz.dpi=40", "--out", tmp_path / "viz"]
    run(app, "viz", f"local-dir:{folder / 'moe'}", *args)
    assert (tmp_path / "viz" / "routing.png").read_bytes().startswith(b"\x89PNG")
    names = {path.stem for path in (tmp_path / "viz").iterdir()}
    assert names >= {"training", "predictions", "confusion", "expert_load", "expert_balance_steps"}
    with pytest.raises(ConfigError, match=r"layer='blocks\.9'"):
        run(app, "viz", f"local-dir:{folder / 'moe'}", "--set", "viz.layer=blocks.9", *args)


def test_viz_of_a_model_without_experts_draws_what_there_is(app, finished, tmp_path):
    _, folder = finished
    args = ["--set", "viz.images=2", "--set", "viz.dpi=40", "--out", tmp_path / "viz"]
    assert "no MoE layer" in run(app, "viz", f"local-dir:{folder / 'dense'}", *args)
    names = {path.stem for path in (tmp_path / "viz").iterdir()}
    assert names >= {"training", "predictions", "confusion"}
    assert not {name for name in names if name.startswith(("expert", "routing"))}


def test_random_weights_are_not_evaluated(app):
    with pytest.raises(ConfigError, match="random weights"):
        run(app, "eval", "entity_moe/digits")


def test_train_takes_file_and_flags_and_leaves_a_model(app, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {num_experts: 3}\ntraining: {epochs: 5}\n")
    folder = tmp_path / "run [/b]"
    args = ["train", "entity_moe/digits", "--config", file, "--out", folder, *FAST]
    output = run(app, *args)
    model = moezoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.moezoo_config.num_experts == 3
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert (folder / "routing.png").exists()
    assert "top-1" in output
    # The folder now holds a run, which is neither written over nor gone on with unasked.
    with pytest.raises(OutputError, match=r"--resume auto.*--overwrite"):
        run(app, *args)
    again = run(app, *args, "--resume", "auto", "--set", "training.grad_clip=2.0")
    assert f"info: going on from {folder}/checkpoints/step-" in again
    assert "\nwarning: the run goes on with other settings than it had" in again
    assert again.splitlines()[-1] == output.splitlines()[-1]
    with pytest.raises(CheckpointError, match=r"model\.num_experts: 3 in the checkpoint, 4 now"):
        run(app, *args, "--resume", "auto", "--set", "num_experts=4")
    kept = (folder / "config.yaml").read_text()
    assert "num_experts: 3" in kept


def test_a_class_count_that_does_not_fit_the_data_is_an_error(app, tmp_path):
    with pytest.raises(ConfigError, match="num_classes=7"):
        run(app, "train", "entity_moe/digits", "--set", "num_classes=7", "--out", tmp_path / "run", *FAST)


def test_a_bad_folder_is_found_before_training(app, tmp_path):
    (tmp_path / "file").write_text("")
    for command in (["quickstart"], ["train", "entity_moe/digits"]):
        with pytest.raises(OutputError, match="file"):
            run(app, *command, "--out", tmp_path / "file", *FAST)


def test_a_run_that_diverges_names_the_step(app, tmp_path):
    args = ["--set", "training.lr=1e30", "--set", "training.grad_clip=null"]
    with pytest.raises(NonFiniteError, match="epoch 1, step"):
        run(app, "train", "entity_moe/digits", "--out", tmp_path / "run", *FAST, *args)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_help_needs_no_torch():
    import subprocess

    code = (
        "import sys\n"
        "import moezoo.cli.quickstart, moezoo.cli.train, moezoo.cli.eval, moezoo.cli.predict, moezoo.cli.viz\n"
        "assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
