"""``moezoo eval`` and ``moezoo predict`` of models that find sentences, and of models that write them."""

import csv
import json

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import moezoo
from moezoo.data import load_dataset
from moezoo.data.text import make_tokenizer
from moezoo.errors import ConfigError
from moezoo.eval import evaluate, evaluate_captions, evaluate_retrieval

OPTIONS = {"train_images": 4, "val_images": 4, "test_images": 14, "num_captions": 2}
TINY = {"embed_dim": 16, "img_size": 32, "img_encoder_layers": 1}
DATA = ["--set", "data.name=shapes", *(x for name, n in OPTIONS.items() for x in ("--set", f"data.{name}={n}"))]


def run(command, *args):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "110"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Folders of a retriever, a captioner and a classifier that has other classes than anything here."""
    folder = tmp_path_factory.mktemp("models")
    part = load_dataset("shapes", **{**OPTIONS, "input_size": (3, 32, 32)}).train
    captions = [sentence for i in range(len(part)) for sentence in part.captions(i)]
    for name in ("shapes", "shapes.captioner", "digits"):
        torch.manual_seed(0)
        model = moezoo.create_model(f"diff_moe/{name}", **TINY, **({"decoder_layers": 1} if "cap" in name else {}))
        model.tokenizer = make_tokenizer(captions, vocab_size=model.moezoo_config.vocab_size, kind="bpe")
        if name == "digits":
            model.label_names = tuple("abcdefghij")
        moezoo.save_pretrained(model, folder / name)
    return folder


def load(folder):
    return moezoo.create_model(f"local-dir:{folder}", pretrained=True)


def splits():
    return load_dataset("shapes", **OPTIONS, input_size=(3, 32, 32))


def test_retrieval_is_reported_both_ways(stored, tmp_path):
    from moezoo.cli.eval import eval_

    printed = run(eval_, f"local-dir:{stored / 'shapes'}", *DATA, "--device", "cpu", "-o", tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    expected = evaluate_retrieval(load(stored / "shapes"), splits().test)
    assert data["retrieval"] == expected.to_dict()["retrieval"]
    assert (data["retrieval"]["images"], data["retrieval"]["texts"]) == (14, 28)
    assert data["split"] == "test"
    assert {load["layer"].split(".")[0] for load in data["routing"]} == {"img_encoder", "text_encoder"}
    assert "classification" not in data
    for words in ("R@1", "R@10", "median rank", "image to text", "text to image", "Expert load"):
        assert words in printed


def test_captions_are_reported_and_their_options_reach_the_search(stored, tmp_path):
    from moezoo.cli.eval import eval_

    name = f"local-dir:{stored / 'shapes.captioner'}"
    few = ("--generate", "max_length=6", "--generate", "num_beams=2")
    printed = run(eval_, name, *DATA, "--device", "cpu", *few, "-o", tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    expected = evaluate_captions(
        load(stored / "shapes.captioner"), splits().test, generation={"max_length": 6, "num_beams": 2}
    )
    assert data["captions"] == expected.to_dict()["captions"]
    assert data["captions"]["images"] == 14
    assert data["captions"]["samples"][0]["references"] == list(splits().test.captions(0))
    for words in ("exact match", "BLEU", "chrF", "a reference"):
        assert words in printed


def test_files_are_captioned(stored, tmp_path):
    from moezoo.cli.predict import predict

    images = [splits().to_pixels(splits().test[i][0]) for i in range(3)]
    for i, image in enumerate(images):
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"nothing")
    name, few = f"local-dir:{stored / 'shapes.captioner'}", ("--generate", "max_length=6")
    run(predict, name, tmp_path, *few, "-o", tmp_path / "out.csv", "--device", "cpu")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(rows[0]) == ["path", "caption", "error"]
    expected = load(stored / "shapes.captioner").caption(
        torch.stack([splits().test[i][0] for i in range(3)]), max_length=6
    )
    assert [row["caption"] for row in rows] == [*expected, ""]
    assert "not an image" in rows[3]["error"]
    run(predict, name, tmp_path, *few, "-o", tmp_path / "out.json", "--device", "cpu")
    found = json.loads((tmp_path / "out.json").read_text())
    assert {tuple(each) for each in found} == {("path", "caption", "error")}  # of the file without an answer too
    assert [each["caption"] for each in found] == [*expected, ""]
    run(predict, name, tmp_path / "0.png", *few, "--routing", "-o", tmp_path / "out.json", "--device", "cpu")
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert (found["caption"], list(found["routing"])) == (expected[0], ["img_encoder.blocks.0.general_experts"])
    run(predict, f"local-dir:{stored / 'digits'}", tmp_path / "0.png", "-o", tmp_path / "out.json", "--device", "cpu")
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert {each["label"] for each in found["predictions"]} <= set("abcdefghij")


def test_what_was_tested_is_named_as_it_is_called_whatever_was_learnt(stored):
    """Brackets in the name of a folder are no markup; what has no classes has a title too."""
    from rich.console import Console

    from moezoo.cli.report import print_report
    from moezoo.cli.scores import print_test

    digits = load_dataset("digits", input_size=(1, 16, 16)).test
    for report in (
        evaluate(moezoo.create_model("entity_moe/digits"), torch.utils.data.Subset(digits, range(4))),
        evaluate_retrieval(load(stored / "shapes"), splits().test),
    ):
        for show in (print_report, print_test):
            console = Console(record=True, width=100)
            show(console, report, "local-dir:runs/[bold]a")
            printed = console.export_text()
            assert "local-dir:runs/[bold]a" in printed
            assert "\\" not in printed  # as markup that was escaped twice has


def test_classes_without_sentences_are_no_matter_to_a_model_that_reads_none(tmp_path):
    from moezoo.cli.eval import eval_

    names = ("night owl", "night_owl")
    for part in ("train", "val", "test"):
        for i, name in enumerate(names):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            Image.new("L", (16, 16), 99 * i).save(tmp_path / "data" / part / name / "0.png")
    moezoo.save_pretrained(moezoo.create_model("entity_moe/digits", num_classes=2), tmp_path / "model")
    data = ("--set", "data.name=image_folder", "--set", f"data.root={tmp_path / 'data'}")
    printed = run(eval_, f"local-dir:{tmp_path / 'model'}", *data, "--device", "cpu", "--metric", "macro_f1")
    assert "night_owl" in printed


def test_mistakes_are_named(stored):
    from moezoo.cli.eval import eval_

    retriever, digits = f"local-dir:{stored / 'shapes'}", f"local-dir:{stored / 'digits'}"
    captioner = f"local-dir:{stored / 'shapes.captioner'}"
    for args, says in [
        ((digits, "--set", "data.name=digits"), "a, b, c, d, .* trained on another data set"),
        ((retriever, *DATA, "--robustness"), "--robustness is of data sets with labels"),
        ((retriever, *DATA, "--metric", "macro_f1"), "--metric is of data sets with labels"),
        ((retriever, *DATA, "--generate", "num_beams=2"), "--generate is of captioners"),
        ((retriever, "--set", "data.name=digits"), "digits"),
        ((captioner, *DATA, "--generate", "num_beams"), "--generate takes key=value, got 'num_beams'"),
        ((captioner, *DATA, "--generate", "num_beam=2"), "Did you mean: num_beams"),
        ((captioner, *DATA, "--generate", "images=2"), "images=2 is not allowed"),
    ]:
        with pytest.raises(ConfigError, match=says):
            run(eval_, *args, "--device", "cpu")
