"""Re-identification through the command line: the published folder forms from training to pictures and features."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import command
from dataset_folders import market1501, msvr310, photo, rgbnt100, rgbnt201, write
from torch_threads import one_thread  # noqa: F401

from moezoo.factory import create_model
from moezoo.train import resolve_recipe, train_recipe

PERSON, VEHICLE = "[32,16]", "[16,32]"
SETS = {
    "rgbnt201": (rgbnt201, PERSON),
    "rgbnt100": (rgbnt100, VEHICLE),
    "msvr310": (msvr310, VEHICLE),
    "market1501": (market1501, PERSON),
}
TINY = (
    "model.model_name=moezoo_vit_figures",
    "model.backbone_args={depth: 1}",
    "model.scales=[1,2]",
    "model.feat_dim=8",
    "model.hidden_dim=8",
    "training.epochs=1",
    "training.batch_size=4",
    "training.instances=2",
    "training.num_workers=0",
    "training.device=cpu",
    "viz.dpi=30",
    "viz.images=1",
)
DRAWN = ("rgbnt201", "market1501")
"""Sets whose pictures are drawn: of three spectra, and of one."""
FIGURES = ("mAP", "r1", "r5", "r10", "mINP")


def assigned(*pairs):
    return [word for pair in pairs for word in ("--set", pair)]


def refused(*args, because):
    ended = command(*args)
    assert ended.returncode != 0
    assert because in " ".join(ended.stderr.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every set trained for an epoch by its recipe, with a tiny backbone: where the runs are, what was printed."""
    root, said = tmp_path_factory.mktemp("reid"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, (make, size) in SETS.items():
            make(root / "data" / name)
            more = (*TINY, f"model.img_size={size}", f"data.root={root / 'data' / name}")
            if name in DRAWN:
                said[name] = command("train", f"multiscale_moe/{name}", *assigned(*more))
                assert said[name].returncode == 0, said[name].stderr
            else:
                recipe = resolve_recipe(f"multiscale_moe/{name}", assignments=more)
                train_recipe(recipe, root / "runs" / f"multiscale_moe-{name}")
    return root, said


@pytest.mark.parametrize("name", SETS)
def test_a_published_set_is_trained_by_its_recipe(runs, name):
    root, _ = runs
    folder = root / "runs" / f"multiscale_moe-{name}"
    written = json.loads((folder / "metrics.json").read_text())
    found = written["test"]["reid"]
    assert all(0 <= found[figure] <= 1 for figure in FIGURES)
    assert found["protocol"] == ("msvr310" if name == "msvr310" else "market1501")
    # The published protocol: nothing to choose on, the last epoch is reported, what the test would choose is named so.
    assert written["best_on_test"]["chosen_on"] == "test"
    assert "val_mAP" not in written
    model = create_model(f"local-dir:{folder}", pretrained=True)
    assert model.num_classes == {"rgbnt201": 3, "rgbnt100": 2, "msvr310": 2, "market1501": 3}[name]
    stored = json.loads((folder / "config.json").read_text())
    assert stored["metrics"]["test_mAP"] == pytest.approx(found["mAP"], abs=1e-4)


@pytest.mark.parametrize("name", DRAWN)
def test_the_command_prints_figures_and_draws_the_run(runs, name):
    root, said = runs
    for words in ("mAP", "mINP", "protocol market1501", "chosen on the test part", "gallery.png"):
        assert words in said[name].stdout, words
    assert said[name].stdout.count("Test images") == 1
    for picture in ("training", "cmc", "gallery", "expert_load", "expert_weights", "activation_patterns"):
        assert (root / "runs" / f"multiscale_moe-{name}" / f"{picture}.png").stat().st_size > 500, picture


def test_eval_reranks_leaves_modalities_out_and_writes_beside_what_the_run_wrote(runs, monkeypatch):
    root, _ = runs
    monkeypatch.chdir(root)
    name, folder = "local-dir:runs/multiscale_moe-rgbnt201", root / "runs" / "multiscale_moe-rgbnt201"
    drawn = {path: path.read_bytes() for path in folder.glob("*.*")}
    ended = command("eval", name, "--rerank", "--missing")
    assert ended.returncode == 0, ended.stderr
    assert "on rgbnt201, test images" in ended.stdout
    for words in ("re-ranked", "Missing modalities", "RGB NIR TIR", "Use of the experts", "evaluation.json"):
        assert words in ended.stdout, words
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == drawn
    written = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    trained = json.loads((folder / "metrics.json").read_text())["test"]["reid"]
    assert {k: written["reid"][k] for k in FIGURES} == {k: trained[k] for k in FIGURES}
    assert written["reid"]["reranked"]["num_queries"] == trained["num_queries"]
    assert len(written["reid"]["usage"][0]["mean"]) == 2
    assert [len(row["missing"]) for row in written["missing"]] == [0, 1, 1, 1, 2, 2, 2]
    assert written["missing"][0]["mAP"] == pytest.approx(trained["mAP"])
    assert (folder / "evaluation" / "missing_modalities.png").stat().st_size > 500
    # Query and gallery are the same images: without the rule every query finds itself.
    ended = command("eval", name, "--protocol", "none", "--missing", "--out", root / "none.json")
    assert ended.returncode == 0, ended.stderr
    written = json.loads((root / "none.json").read_text())
    assert written["reid"]["r1"] == 1.0
    assert [row["protocol"] for row in written["missing"]] == ["none"] * 7
    assert written["missing"][0]["r1"] == 1.0
    refused(
        "eval", "local-dir:runs/multiscale_moe-market1501", "--missing", because="--missing is of several modalities"
    )
    refused("eval", name, "--protocol", "market1502", because="Did you mean: market1501")
    refused("eval", name, "--split", "val", because="has no validation part")
    other = assigned("data.name=market1501", f"data.root={root / 'data' / 'market1501'}")
    refused("eval", name, *other, because="do not fit the data set 'market1501'")


def test_predict_writes_features_of_sightings(runs, monkeypatch):
    root, _ = runs
    monkeypatch.chdir(root)
    folder, name = Path("data/rgbnt201/RGBNT201/test"), "local-dir:runs/multiscale_moe-rgbnt201"
    ended = command("predict", name, folder, "--features", "all.npz", "--batch-size", 3, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    found = np.load("all.npz")
    paths = sorted((folder / "RGB").iterdir())
    assert found["paths"].tolist() == [str(path) for path in paths]
    assert found["features"].shape == (4, 3 * 8)
    assert found["features"].dtype == np.float32
    # A file of a sighting stands for all of it, whichever it is.
    ended = command("predict", name, folder / "TI" / paths[1].name, "--features", "one.npz", "--device", "cpu")
    assert ended.returncode == 0
    assert np.allclose(np.load("one.npz")["features"][0], found["features"][1], atol=1e-5)
    # Trained on RGBNT100's form: three pictures in one file.
    strips = Path("data/rgbnt100/RGBNT100/rgbir/query")
    ended = command("predict", "local-dir:runs/multiscale_moe-rgbnt100", strips, "--features", "strips.npz")
    assert np.load("strips.npz")["features"].shape == (1, 24)
    # A plain picture has one modality, a broken one none.
    write(Path("more/plain.png"), photo(1))
    Path("more/broken.jpg").write_bytes(b"nothing")
    ended = command("predict", name, "more", "--features", "more.npz", "--device", "cpu")
    assert ended.returncode == 1
    assert "plain.png: is not there in every modality: NIR, TIR missing" in ended.stderr
    assert np.load("more.npz")["features"].shape[0] == 0
    assert np.load("more.npz")["paths"].dtype.kind == "U"
    ended = command("predict", name, "more", "--features", "more.npz", "--allow-missing", "--device", "cpu")
    assert ended.returncode == 0
    assert "1 of 2 images have no features" in ended.stderr
    assert np.load("more.npz")["paths"].tolist() == ["more/plain.png"]
    assert not np.load("more.npz")["features"][0, 8:].any()
    refused("predict", name, "data/rgbnt201", "--features", "none.npz", because="no folders vis, ni, th with images")
    refused("predict", name, folder, "--features", "features.csv", because="must end in .npz")
    idle = {"--out": "a.csv", "--format": "json", "--top": 3, "--generate": "num_beams=1"}
    for words in (*idle.items(), ("--routing",)):
        refused("predict", name, folder, "--features", "a.npz", *words, because=f"{words[0]} has no effect with --feat")
    refused("predict", name, "-", "-", "--features", "a.npz", because="standard input can be read once")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    refused("predict", name, "-", "--features", "a.npz", because="the list on standard input is empty")
    assert not Path("a.npz").exists()
    refused("predict", name, folder / "RGB", because="finds identities again and names no classes")
    refused("predict", name, folder / "RGB", "--allow-missing", because="--allow-missing is of --features")
