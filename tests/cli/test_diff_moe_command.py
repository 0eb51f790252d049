"""``moezoo diff-moe``: its flags, and what it says to wrong ones. What it does is in ``test_diff_moe_end_to_end``."""

import json

import pytest
import torch
import yaml
from command_line import command

import moezoo
from moezoo.data import input_options, load_dataset
from moezoo.data.text import class_sentences, make_tokenizer
from moezoo.eval import evaluate_text
from moezoo.hub.single_file import save_single_file

SMALL = ("--set", "embed_dim=8", "--set", "img_encoder_layers=1")
TINY = {"embed_dim": 16, "num_heads": 2, "img_encoder_layers": 1, "text_encoder_layers": 1, "fusion_layers": 1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(*args):
    """The message of a command that ends with 1, without a traceback and without having made a file."""
    ended = command("diff-moe", *args)
    assert ended.returncode == 1, ended.stdout
    return ended.stderr


def test_the_documents_flags_are_there():
    ended = command("diff-moe", "--help")
    assert ended.returncode == 0
    flags = "dataset mode batch_size epochs lr weight_decay checkpoint save_dir accumulation_steps config set resume"
    for flag in flags.split():
        assert f"--{flag} " in ended.stdout, flag


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--dataset", "cifer10"), "Did you mean: cifar10"),
        (("--dataset", "digits", "--mode", "tests"), "Did you mean: test"),
        (("--dataset", "digits", "--mode", "test"), "no checkpoint 'checkpoints/digits_model.safetensors'"),
        (("--dataset", "digits", "--mode", "test", "--checkpoint", "m.pth"), "'moezoo convert pth m.pth'"),
        (("--dataset", "digits", "--mode", "test", "--checkpoint", "m.safetensors"), "no checkpoint 'm.safetensors'"),
        (("--dataset", "digits", "--mode", "test", "--resume", "auto"), "--mode test does not train"),
        (("--dataset", "digits", "--mode", "test", "--overwrite"), "--mode test does not train"),
        (("--dataset", "digits", "--checkpoint", "m.safetensors"), "is what --mode test reads"),
        (("--dataset", "digits", "--set", "top_k=9"), "top_k=9"),
        (("--dataset", "digits", "--set", "num_modality_specific_experts=3"), "num_modality_specific_experts"),
        (("--dataset", "digits", "--set", "embed_dimm=3"), "Did you mean: embed_dim"),
        (("--dataset", "digits", "--epochs", "0"), "epochs=0"),
        (("--dataset", "digits", "--config", "none.yaml"), "none.yaml"),
        (("--dataset", "digits", "--set", "data.name=shapes"), "--dataset digits is trained and tested on 'digits'"),
        (("--dataset", "digits.dense", "--mode", "test", "--set", "data.name=shapes"), "names 'shapes'"),
        (("--dataset", "digits", "--mode", "test", "--checkpoint", "."), "'.' is a folder"),
        (("--dataset", "cifar10", *SMALL, "--set", "data.root=nowhere"), "cifar-10-batches-py"),
        (("--dataset", "fashion_mnist", *SMALL, "--set", "data.root=nowhere"), "FashionMNIST"),
        (("--dataset", "flickr8k", *SMALL, "--set", "data.root=nowhere"), "Flickr8k"),
        (("--dataset", "digits", *SMALL, "--set", "vocab_size=20"), "vocab_size=20"),
    ],
)
def test_what_cannot_be_done_is_one_message(args, said):
    message = refused(*args)
    assert said in message
    assert message.startswith("error: ")


def test_a_checkpoint_of_another_data_set_or_another_model_is_refused(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": TINY}))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"model": {**TINY, "embed_dim": 32}}))
    model = moezoo.create_model("diff_moe/fashion_mnist", **TINY)
    path = save_single_file(model, tmp_path / "one.safetensors", dataset="fashion_mnist")
    given = ("--mode", "test", "--checkpoint", path)
    message = refused("--dataset", "digits", *given)
    assert "trained on the data set 'fashion_mnist'; it cannot be tested on 'digits'" in message
    message = refused("--dataset", "fashion_mnist", *given, "--config", tmp_path / "other.yaml")
    assert "embed_dim=32 was asked for, the checkpoint has 16" in message
    message = refused("--dataset", "fashion_mnist.dense", *given)
    assert "dense=True was asked for, the checkpoint has False" in message
    assert not (tmp_path / "visualizations").exists()


def test_the_saved_file_is_tested_with_sentences_of_its_language_under_a_title_as_it_is(tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model("diff_moe/digits", **TINY, patch_size=8)
    chinese = class_sentences("digits", "zh")
    model.tokenizer = make_tokenizer([s for own in chinese for s in own], vocab_size=400, kind="bpe")
    model.label_names = tuple(map(str, range(10)))
    file = save_single_file(model, tmp_path / "[red]" / "one.safetensors", dataset="digits")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"viz": {"images": 2, "dpi": 30}}))
    given = ("--config", tmp_path / "c.yaml", "--set", "training.language=zh", "--save_dir", tmp_path)
    ended = command("diff-moe", "--dataset", "digits", "--mode", "test", "--checkpoint", file, *given)
    assert ended.returncode == 0, ended.stderr
    assert "[red]/one.safetensors on digits" in "".join(ended.stdout.split("\n")).replace("  ", "")
    found = json.loads((tmp_path / "checkpoints" / "digits_test.json").read_text())["text"]
    digits = load_dataset("digits", **input_options(model, "digits")).test
    wanted, other = (evaluate_text(model.eval(), digits, each) for each in (chinese, class_sentences("digits")))
    assert wanted.zero_shot != other.zero_shot
    assert found["zero_shot"] == wanted.zero_shot


def test_a_pickle_that_lies_where_the_checkpoint_would_be_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "cifar10_model.pth").touch()
    message = refused("--dataset", "cifar10", "--mode", "test")
    assert "'moezoo convert pth checkpoints/cifar10_model.pth'" in message
