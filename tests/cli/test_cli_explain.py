"""``moezoo explain`` as typed: files of several spectra, of classes, and test images."""

import json

import numpy as np
import pytest
import torch
from command_line import command
from PIL import Image

import moezoo

QUICK = ("--steps", "2", "--cells", "4", "2", "--set", "training.device=cpu", "--device", "cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stored")
    model = moezoo.create_model("multiscale_moe/synthetic", num_classes=0)
    moezoo.save_pretrained(model, folder / "model")
    return f"local-dir:{folder / 'model'}"


def sighting(folder, name, seed):
    rng = np.random.default_rng(seed)
    for spectrum in ("RGB", "NI", "TI"):
        (folder / spectrum).mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (128, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / spectrum / name)
    return folder / "RGB" / name


def test_files_of_three_spectra_are_explained_against_their_match(stored, tmp_path):
    first, second = sighting(tmp_path, "a.png", 0), sighting(tmp_path, "b.png", 1)
    (tmp_path / "TI" / "b.png").unlink()
    ended = command("explain", stored, first, second, "--match", first, "--out", tmp_path / "why", *QUICK)
    assert ended.returncode == 0, ended.stderr
    told = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert told["model"] == stored
    assert [case["image"] for case in told["cases"]] == [str(first), str(second)]
    assert told["cases"][0]["score"] == pytest.approx(1, abs=1e-5)  # like itself
    assert [part["present"] for part in told["cases"][1]["modalities"]] == [True, True, False]
    assert {part["kind"] for part in told["cases"][0]["experts"]} == {"scale"}
    for number in (1, 2):
        assert (tmp_path / "why" / f"explanation_{number}.png").stat().st_size > 1000
    assert "Not there: TIR." in " ".join(ended.stdout.split())
    assert "random" not in ended.stdout.partition("\n")[0]  # weights are stored ones


def test_test_images_are_explained_without_files(tmp_path):
    people = [f"data.{key}={n}" for key, n in (("train_identities", 2), ("test_identities", 2), ("val_identities", 0))]
    sets = [word for each in people for word in ("--set", each)]
    name = "multiscale_moe/synthetic"
    ended = command("explain", name, "-n", 1, "--method", "gradient", *sets, "--out", tmp_path, *QUICK)
    assert ended.returncode == 0, ended.stderr
    assert "weights are random" in ended.stdout
    (case,) = json.loads((tmp_path / "explanation.json").read_text())["cases"]
    assert "at rank" in case["image"]
    assert "more like its match than like 4 others" in case["text"]


def test_a_classifier_is_explained_by_class_and_compares_nothing(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "0.png")
    line = ("explain", "entity_moe/digits", tmp_path / "0.png", "--out", tmp_path / "why", *QUICK)
    ended = command(*line, "--target", 3)
    assert ended.returncode == 0, ended.stderr
    (case,) = json.loads((tmp_path / "why" / "explanation.json").read_text())["cases"]
    assert "class 3" in case["decision"]
    wrong = command(*line, "--match", tmp_path / "0.png")
    assert wrong.returncode == 1
    assert "compares no features" in wrong.stderr
    assert "first 4" not in ended.stderr
    others = tmp_path / "others"
    others.mkdir()
    for number in range(2):
        Image.fromarray(np.full((8, 8), 99 * number, dtype=np.uint8)).save(others / f"{number}.png")
    line = (*line[:2], others, *line[3:], "-n", 1, "--set", "model.num_classes=0")
    compared = command(*line, "--match", others / "1.png", "--against", others)
    assert compared.returncode == 0, compared.stderr
    assert "Only the first 1 of the files are explained: --images takes more" in compared.stderr
    (case,) = json.loads((tmp_path / "why" / "explanation.json").read_text())["cases"]
    assert case["image"] == str(others / "0.png")
    assert "like its match than like 2 others" in case["text"]  # a folder is all that is in it
    assert command("explain", "entity_moe/digits", "--match", "x.png").returncode == 1
