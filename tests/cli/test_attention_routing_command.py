"""``moezoo attention-routing``: its document's flags, file and outputs, and what it says to wrong ones."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import command

import moezoo
from moezoo.cli.documented_flags import read_documented
from moezoo.errors import ConfigError
from moezoo.hub.single_file import read_single_file

DOCUMENTED_FLAGS = (
    "--dataset.name cifar10 --dataset.patch_grid_size 8 --training.batch_size 128 --training.num_epochs 100 "
    "--training.learning_rate 0.001 --model.name full_compute --model.router.mode sigmoid_gate"
)
DOCUMENTED_FILE = """
# 数据集配置
dataset:
  name: "cifar100"  # cifar10 或 cifar100
  input_size: 64
  patch_grid_size: 4  # patch网格大小 4x4=16个patches

# 模型配置
model:
  name: "attention_routing"  # attention_routing, full_compute, cheap_compute, no_routing
  router:
    mode: "learnable_threshold"  # learnable_threshold 或 sigmoid_gate
    threshold_init: 0.4
    temperature: 0.5

# 训练配置
training:
  batch_size: 64
  num_epochs: 7
  learning_rate: 0.002
"""
SMALL = {
    "dataset": {"name": "digits", "patch_grid_size": 4},
    "model": {"name": "attention_routing", "router": {"mode": "learnable_threshold"}},
    "training": {"batch_size": 128, "num_epochs": 1, "device": "cpu"},
    "viz": {"every": 1, "images": 2, "dpi": 30},
}
CONFIG = ("--config", "default.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with ``default.yaml`` in which the routing model and then full compute were trained; what was said."""
    folder, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(folder)
    try:
        (folder / "default.yaml").write_text(yaml.safe_dump(SMALL))
        ended = command("attention-routing", "train", *CONFIG)
        assert ended.returncode == 0, ended.stderr
        for name in ("full_compute",):
            other = command("attention-routing", "train", *CONFIG, "--model.name", name)
            assert other.returncode == 0, other.stderr
    finally:
        os.chdir(before)
    return folder, ended.stdout


@pytest.fixture
def inside(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained[0]


def refused(*args):
    """The message of a command that ends with 1."""
    ended = command("attention-routing", *args)
    assert ended.returncode == 1, ended.stdout
    assert ended.stderr.startswith("error: ")
    return ended.stderr


def test_the_documents_flags_are_taken_as_they_are():
    asked = read_documented(DOCUMENTED_FLAGS.split(), None)
    recipe = asked.recipe()
    assert recipe.name == "attention_routing/cifar10.full_compute"
    assert recipe.dataset == "cifar10"
    assert (recipe.model["patch_grid_size"], recipe.model["router_mode"]) == (8, "sigmoid_gate")
    assert (recipe.training.batch_size, recipe.training.epochs, recipe.training.lr) == (128, 100, 0.001)
    joined = DOCUMENTED_FLAGS.replace("size 8", "size=8").replace("epochs 100", "epochs=100")
    assert read_documented(joined.split(), None) == asked
    assert read_documented([], None).name() == "attention_routing/cifar10"


def test_the_documents_file_is_taken_and_flags_go_before_it(tmp_path):
    file = tmp_path / "default.yaml"
    file.write_text(DOCUMENTED_FILE, encoding="utf-8")
    recipe = read_documented([], file).recipe()
    config = moezoo.model_config(recipe.name, **recipe.model)
    assert recipe.name == "attention_routing/cifar100"
    assert (config.img_size, config.patch_grid_size, config.num_classes) == (64, 4, 100)
    assert (config.router_mode, config.threshold_init, config.temperature) == ("learnable_threshold", 0.4, 0.5)
    assert (recipe.training.batch_size, recipe.training.epochs, recipe.training.lr) == (64, 7, 0.002)
    flags = ["--model.temperature", "2", "--training.epochs=3", "--model.name=no_routing", "--dataset.name=cifar10"]
    over = read_documented(flags, file).recipe()  # by the other name of the same field
    assert over.name == "attention_routing/cifar10.no_routing"
    assert (over.model["temperature"], over.model["threshold_init"], over.training.epochs) == (2, 0.4, 3)


@pytest.mark.parametrize("name", ["attention_routing", "full_compute", "cheap_compute", "no_routing"])
def test_every_documented_model_has_a_registered_name(name):
    recipe = read_documented(["--model.name", name], None).recipe()
    moezoo.model_config(recipe.name, **recipe.model)
    assert recipe.name.removeprefix("attention_routing/cifar10").removeprefix(".") == name.replace(
        "attention_routing", ""
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--training.num_epoch 3", "--training.num_epoch: no such flag. Did you mean: training.num_epochs"),
        ("--dataset.patch_grid_siz=3", "Did you mean: dataset.patch_grid_size"),
        ("--patch_grid_size 3", "patch_grid_size"),
        ("--confg a.yaml", "Did you mean: config"),
        ("--training.lr 1 --training.learning_rate 2", "--training.learning_rate: given twice, once as training.lr"),
        ("--training.lr", "--training.lr has no value"),
        ("--training.lr --training.num_epochs 3", "--training.lr has no value"),
        ("digits", "'digits' stands alone"),
        ("--model.name full", "Did you mean: full_compute"),
        ("--model.router.mode hard", "router_mode='hard'"),
        ("--model.router.threshold_init 1.0", "threshold_init=1.0"),
        ("--dataset.patch_grid_size 5", "patch_grid_size=5"),
        ("--dataset.name cifer10", "Did you mean: cifar10"),
        ("--training.num_epochs three", "epochs='three'"),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest_right_one(flags, said):
    with pytest.raises(ConfigError) as error:
        read_documented(flags.split(), None).recipe()
    assert said in str(error.value)


def test_a_wrong_key_of_the_file_is_named_with_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {router: {mod: sigmoid_gate}}")
    with pytest.raises(ConfigError, match=r"mine.yaml: model.router.mod: no such key. Did you mean: model.router.mode"):
        read_documented([], file)


def test_training_writes_the_documents_files(trained):
    folder, said = trained
    checkpoints = folder / "checkpoints"
    for name in ("attention_routing", "full_compute"):
        assert read_single_file(checkpoints / f"best_model_{name}.safetensors").dataset == "digits"
        results = json.loads((checkpoints / f"training_results_{name}.json").read_text())
        assert results["model"] == name
        assert len(results["history"]) == results["best_epoch"] == 1
    newest = read_single_file(checkpoints / "best_model.safetensors")
    assert newest.name == "attention_routing/digits.full_compute", "the document's name is the last one's"
    assert json.loads((checkpoints / "training_results.json").read_text())["model"] == "full_compute"
    epoch = json.loads((checkpoints / "training_results_attention_routing.json").read_text())["history"][0]
    assert 0 < epoch["routing_ratio"] < 1
    assert epoch["flops_per_image"] > 0
    assert "FLOPs" in said
    pictures = {path.name for path in (checkpoints / "visualizations").glob("*.png")}
    assert {"attention_epoch_001.png", "attention_heat.png", "routing_decisions.png", "patch_grid.png"} <= pictures
    assert {"training.png", "confusion.png"} <= pictures
    assert (checkpoints / "visualizations" / "full_compute" / "training.png").is_file()


def test_a_second_training_does_not_overwrite_the_run_unasked(inside):
    assert "holds a run already" in refused("train", *CONFIG)


def test_evaluate_takes_the_named_model_and_writes_ratio_and_flops(inside):
    ended = command("attention-routing", "evaluate", *CONFIG)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((inside / "checkpoints" / "evaluation_results.json").read_text())
    trained = json.loads((inside / "checkpoints" / "training_results_attention_routing.json").read_text())
    assert found["model"] == "attention_routing"
    assert found["classification"]["top1"] == trained["test"]["classification"]["top1"]
    assert 0 < found["budget"]["ratio"]["mean"] < 1
    assert found["budget"]["flops_per_image"]["p50"] <= found["budget"]["flops_per_image"]["p95"]
    assert (inside / "checkpoints" / "visualizations" / "attention_heat.png").is_file()


def test_without_a_name_the_documents_own_file_is_evaluated_whatever_it_holds(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained[0] / "checkpoints" / "best_model.safetensors", "checkpoints")
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({"dataset": {"name": "digits"}, "viz": SMALL["viz"]}))
    ended = command("attention-routing", "evaluate", "--config", "plain.yaml")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(Path("checkpoints/evaluation_results.json").read_text())
    assert found["model"] == "full_compute"
    assert found["budget"]["ratio"]["mean"] == 1


def test_eval_all_compares_what_was_trained_each_by_its_own_weights(inside):
    ended = command("attention-routing", "evaluate", *CONFIG, "--mode", "eval_all")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((inside / "checkpoints" / "baseline_comparison.json").read_text())["models"]
    assert list(found) == ["attention_routing", "full_compute"]
    for name, report in found.items():
        trained = json.loads((inside / "checkpoints" / f"training_results_{name}.json").read_text())
        assert report["classification"]["top1"] == trained["test"]["classification"]["top1"]
        assert report["latency"]["p50"] > 0
    assert found["attention_routing"]["flops_per_image"]["mean"] < found["full_compute"]["flops_per_image"]["mean"]
    assert "not trained: cheap_compute, no_routing" in ended.stdout
    assert (inside / "checkpoints" / "visualizations" / "baseline_comparison.png").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--dataset.name", "digits", "--dataset.patch_grid_size", "8"), "patch_grid_size=8 was asked for, the checkp"),
        (("--dataset.name", "cluttered_digits", "--model.name", "full_compute"), "trained on the data set 'digits'"),
        ((*CONFIG, "--model.num_classes", "9"), "num_classes=9 was asked for, the checkpoint has 10"),
        ((*CONFIG, "--model.name", "dense"), "no checkpoint 'checkpoints/best_model_dense.safetensors'"),
        (
            (*CONFIG, "--checkpoint", "checkpoints/best_model.safetensors"),
            "holds attention_routing/digits.full_compute",
        ),
        (("--dataset.name", "digits", "--mode", "eval_al"), "Did you mean: eval_all"),
        (("--dataset.name", "digits", "--mode", "eval_all", "--checkpoint", "x"), "--checkpoint is one model's"),
        (("--dataset.name", "digits", "--mode", "eval_all", "--save_dir", "."), ""),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(inside, tmp_path, monkeypatch, flags, said):
    if not said:
        monkeypatch.chdir(tmp_path)
        said = "finds none of checkpoints/best_model_attention_routing.safetensors"
    assert said in refused("evaluate", *flags)


def test_ablate_writes_the_documents_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default.yaml").write_text(yaml.safe_dump(SMALL))
    ended = command("attention-routing", "ablate", *CONFIG, "--only", "threshold", "--training.num_epochs", "1")
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "checkpoints" / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["factor"] == "base"
    assert {row["factor"] for row in rows[1:]} == {"threshold"}
    ratios = [float(row["routing_ratio"]) for row in rows[1:]]
    assert ratios == sorted(ratios, reverse=True), "a higher threshold sends fewer cells to the big MLP"
    assert ratios[0] > ratios[-1]
    assert (tmp_path / "checkpoints" / "ablation.png").is_file()
