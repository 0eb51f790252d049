"""CIFAR-10, Fashion-MNIST and Flickr8k in their true forms on disk: train, go on, test the saved file, draw."""

import json
import math

import pytest
import yaml
from command_line import command
from dataset_folders import cifar, fashion_mnist, flickr8k
from safetensors.torch import load_file
from torchvision.datasets import CIFAR10

from moezoo.data import cifar as cifar_module
from moezoo.hub.single_file import read_single_file

TINY = {
    "embed_dim": 16,
    "num_heads": 2,
    "img_encoder_layers": 1,
    "text_encoder_layers": 1,
    "fusion_layers": 1,
    "num_general_experts": 3,
    "mlp_ratio": 1.0,
    "vocab_size": 400,
    "text_embed_dim": 8,
}
OF = {
    "cifar10": {"patch_size": 16},
    "fashion_mnist": {"patch_size": 14},
    "flickr8k": {"img_size": 32},
}
PICTURES = {
    "training_curves",
    "predictions_grid",
    "expert_allocation",
    "router_decisions",
    "attention_weights",
    "expert_regions",
    "expert_tokens",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One folder that holds the three data sets."""
    root = tmp_path_factory.mktemp("data")
    fashion_mnist(root)
    flickr8k(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar_module, "CIFAR10", cifar(root, CIFAR10, per_file=10))
        yield root


def recipe(data, folder, dataset, **model):
    """``--config``: a model small enough for a test, and where the data lies."""
    training = {"warmup_epochs": 0, "batch_size": 16, "grad_accum_steps": 1, "num_workers": 0, "mixed_precision": "no"}
    sections = {
        "model": {**TINY, **OF[dataset], **model},
        "data": {"root": str(data)},
        "training": training,
        "viz": {"images": 2, "dpi": 30},
    }
    path = folder / f"{dataset}.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def run(*args):
    ended = command("diff-moe", *args)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("dataset", OF)
def test_train_go_on_test_and_draw(dataset, data, tmp_path):
    given = ("--dataset", dataset, "--config", recipe(data, tmp_path, dataset))
    home, file = tmp_path / "home", tmp_path / "home" / "checkpoints" / f"{dataset}_model.safetensors"
    first = run(*given, "--mode", "train", "--epochs", 1, "--batch_size", 8, "--lr", 1e-3, "--save_dir", home)
    assert str(file) in first
    assert "Test" not in first
    assert not (home / "checkpoints" / f"{dataset}_test.json").exists()
    before = load_file(file)
    more = ("--epochs", 2, "--accumulation_steps", 2, "--weight_decay", 0.02, "--resume", "auto")
    run(*given, "--mode", "train_test", *more, "--save_dir", home)
    folder = home / "runs" / f"diff_moe-{dataset}"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    asked = {"epochs": 2, "batch_size": 16, "grad_accum_steps": 2, "weight_decay": 0.02}
    assert {key: written["training"][key] for key in asked} == asked
    epochs, steps = ([json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in ("metrics", "steps"))
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(math.isfinite(epoch["loss"]) for epoch in epochs)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    first, second = ([step["images"] for step in steps if step["epoch"] == epoch] for epoch in (1, 2))
    assert sum(first) == sum(second)
    assert (len(first), len(second)) == (math.ceil(sum(first) / 8), math.ceil(sum(first) / 32))  # 2 forwards of 16
    after = load_file(file)
    assert before.keys() == after.keys()
    about = read_single_file(file)
    assert (about.name, about.dataset, about.config.embed_dim) == (f"diff_moe/{dataset}", dataset, 16)
    assert about.tokenizer is not None
    pictures = {path.stem for path in (home / "visualizations").glob("*.png")}
    assert pictures >= PICTURES
    assert ("confusion_matrix" in pictures) == (dataset != "flickr8k")

    # The saved file alone, elsewhere, by the recipe that the run wrote: what the run found, without a step of training.
    saved, elsewhere = file.read_bytes(), tmp_path / "elsewhere"
    given = ("--dataset", dataset, "--config", folder / "config.yaml")
    run(*given, "--mode", "test", "--checkpoint", file, "--save_dir", elsewhere)
    found, told = (json.loads((h / "checkpoints" / f"{dataset}_test.json").read_text()) for h in (home, elsewhere))
    assert {**found, "checkpoint": ""} == {**told, "checkpoint": ""}
    trained = json.loads((folder / "metrics.json").read_text())["test"]
    if dataset == "flickr8k":
        assert found["retrieval"]["text_to_image"] == trained["retrieval"]["text_to_image"]
        assert found["retrieval"]["images"] == 4
    else:
        assert found["classification"]["top1"] == trained["classification"]["top1"]
        assert set(found["text"]) >= {"image_only", "zero_shot", "label_text_upper_bound"}
        assert found["text"]["image_only"] == found["classification"]["top1"]
    assert file.read_bytes() == saved
    assert not (elsewhere / "runs").exists()
    assert "training_curves" not in {path.stem for path in (elsewhere / "visualizations").glob("*.png")}


def test_a_variant_goes_by_its_own_name_and_a_captioner_writes(data, tmp_path):
    config = recipe(data, tmp_path, "flickr8k", decoder_layers=1)
    run("--dataset", "flickr8k.captioner", "--config", config, "--save_dir", tmp_path, "--epochs", 1)
    found = json.loads((tmp_path / "checkpoints" / "flickr8k.captioner_test.json").read_text())
    assert found["captions"]["exact_match"] >= 0
    about = read_single_file(tmp_path / "checkpoints" / "flickr8k.captioner_model.safetensors")
    assert (about.name, about.config.captioner) == ("diff_moe/flickr8k.captioner", True)
