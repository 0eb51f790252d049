"""The commands on a machine with a GPU, as a person types them: ``auto`` takes it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from command_line import command
from dataset_folders import few_digits
from image_files import save_digit

SMALL = [
    "--set",
    "training.epochs=1",
    "--set",
    "training.warmup_epochs=0",
    "--set",
    "viz.dpi=30",
    "--set",
    "viz.images=2",
]


def run(*args):
    ended = command(*args)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module", autouse=True)
def digits():
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        yield


@pytest.fixture(scope="module")
def trained(device, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    run("train", "entity_moe/digits", "--out", out, *SMALL, "--set", f"training.device={device.type}")
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        save_digit(i, folder / f"{i}.png")
    return folder


def test_train_and_quickstart_draw_their_pictures(trained, tmp_path):
    assert (trained / "model.safetensors").exists()
    assert list(trained.rglob("*.png"))
    run("quickstart", "--out", tmp_path / "quick", *SMALL)
    assert list((tmp_path / "quick").rglob("model.safetensors"))


def test_eval_predict_and_features(trained, photos, tmp_path):
    name = f"local-dir:{trained}"
    run("eval", name, "--device", "auto", "--out", tmp_path / "eval", "--robustness", "--set", "viz.dpi=30")
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text())["classification"]["top1"] >= 0
    run("predict", name, photos, "--device", "auto", "--out", tmp_path / "answers.csv")
    assert len(list(csv.DictReader((tmp_path / "answers.csv").open()))) == 4
    run("predict", name, photos, "--device", "auto", "--features", tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz") as kept:
        assert all(np.isfinite(kept[key]).all() for key in kept.files if kept[key].dtype.kind == "f")


def test_bench_viz_compress_and_explain(trained, device, tmp_path):
    name = f"local-dir:{trained}"
    run("bench", "entity_moe/digits", "--rounds", 2, "--device", device.type)
    run("viz", name, "--out", tmp_path / "viz", "--set", "viz.dpi=30", "--set", "viz.images=2")
    assert list((tmp_path / "viz").rglob("*.png"))
    run("explain", name, "--device", "auto", "--out", tmp_path / "explained", "--images", 1)


@pytest.mark.parametrize("name", ["attention_routing/digits", "multiscale_moe/synthetic", "diff_moe/shapes.captioner"])
def test_train_and_eval_of_other_families(name, device, tmp_path):
    more = {
        "multiscale_moe/synthetic": (
            *("data.train_identities=4", "data.val_identities=2", "data.test_identities=2", "data.cameras=2"),
            "training.batch_size=16",
        ),
        "diff_moe/shapes.captioner": ("data.train_images=48", "data.val_images=16", "data.test_images=16"),
    }
    sets = [word for each in more.get(name, ()) for word in ("--set", each)]
    run("train", name, "--out", tmp_path / "run", *SMALL, *sets, "--set", f"training.device={device.type}")
    run("eval", f"local-dir:{tmp_path / 'run'}", "--device", "auto")
