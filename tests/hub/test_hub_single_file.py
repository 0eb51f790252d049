"""A model in one file: weights for every reader of safetensors, and what else it takes for ours."""

import json
import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import moezoo
from moezoo.data.text import train_bpe
from moezoo.errors import ConfigError, InputError, MoeZooError, NonFiniteError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.files import exclusive
from moezoo.hub.single_file import read_single_file, save_single_file

NAME = "entity_moe/digits"


class Words:
    """As much of a tokenizer as a file asks for."""

    def to_json(self):
        return '{"words": ["zwei", "三"]}'


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = moezoo.create_model(NAME, num_experts=2)
    model.label_names = tuple("0123456789")
    return model


def test_weights_config_labels_and_tokenizer_come_back(model, tmp_path):
    model.tokenizer = Words()
    path = save_single_file(model, tmp_path / "checkpoints" / "digits_model.safetensors", dataset="digits")
    assert [p.name for p in path.parent.iterdir()] == ["digits_model.safetensors"]
    found = read_single_file(path)
    assert (found.name, found.config, found.dataset) == (model.moezoo_name, model.moezoo_config, "digits")
    assert (found.label_names, found.tokenizer) == (model.label_names, model.tokenizer.to_json())
    assert load_file(path).keys() == model.state_dict().keys()
    again = moezoo.create_model(NAME, num_experts=2, checkpoint_path=path)
    assert again.label_names == model.label_names
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    del model.tokenizer
    assert read_single_file(save_single_file(model, path, dataset="digits")).tokenizer is None  # written over


def test_a_file_of_weights_alone_says_nothing(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    assert read_single_file(tmp_path / "plain.safetensors") is None


def test_what_is_no_such_file_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="moezoo convert pth"):
        read_single_file(tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="moezoo convert pth"):
        save_single_file(model, tmp_path / "model.pth", dataset="digits")
    with pytest.raises(WeightsUnavailable, match="there is no weights file"):
        read_single_file(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" * 20)
    with pytest.raises(WeightsCorrupted, match="not a sound safetensors file"):
        read_single_file(tmp_path / "cut.safetensors")
    path = save_single_file(model, tmp_path / "a.safetensors", dataset="digits")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    said_before = json.loads(metadata["moezoo"])
    for about, error, said in (
        ("nonsense", WeightsCorrupted, "not what moezoo writes"),
        ("[" * 100_000, WeightsCorrupted, "not what moezoo writes"),
        (json.dumps({**said_before, "format_version": "3"}), WeightsCorrupted, "format_version must be an integer"),
        (json.dumps({**said_before, "label_names": 5}), WeightsCorrupted, "label_names must be a list"),
        (json.dumps({**said_before, "label_names": "ab"}), WeightsCorrupted, "label_names must be a list"),
        (json.dumps({**said_before, "label_names": ["a", 1]}), WeightsCorrupted, "label_names must be a list"),
        ("[]", WeightsCorrupted, "not what moezoo writes"),
        (json.dumps({"format_version": 99}), MoeZooError, "name must be a string"),
        (json.dumps({**json.loads(metadata["moezoo"]), "format_version": 99}), ConfigError, "newer"),
        (json.dumps({**json.loads(metadata["moezoo"]), "config": {"num_expert": 2}}), ConfigError, "num_expert"),
    ):
        save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors", metadata={**metadata, "moezoo": about})
        with pytest.raises(error, match=said):
            read_single_file(tmp_path / "b.safetensors")


def test_what_a_folder_refuses_or_leaves_out_a_file_does_too(tmp_path):
    """``save_pretrained`` and ``save_single_file`` keep the same promises."""
    path = tmp_path / "a.safetensors"
    model = moezoo.create_model(NAME, num_experts=2)
    model.label_names, model.tokenizer = tuple("0123456789"), torch.nn.Identity()
    model.reset_classifier(3)  # whose classes have no names yet
    found = read_single_file(save_single_file(model, path, dataset="digits"))
    assert (found.config.num_classes, found.label_names, found.tokenizer) == (3, None, None)
    model.label_names = ("a", "b", "c")
    assert read_single_file(save_single_file(model, path, dataset="digits")).label_names == ("a", "b", "c")
    model = moezoo.create_model(NAME, num_experts=2, num_classes=3)
    model.label_names = ("a", "b")
    with pytest.raises(ConfigError, match="label_names has 2 names, the model has num_classes=3"):
        save_single_file(model, path, dataset="digits")
    reader = moezoo.create_model("diff_moe/digits", vocab_size=300, embed_dim=16, img_encoder_layers=1)
    reader.tokenizer = train_bpe([f"word{i}" for i in range(99)], vocab_size=400)
    with pytest.raises(ConfigError, match=r"bpe tokenizer has 3\d\d tokens, the model vocab_size=300"):
        save_single_file(reader, path, dataset="digits")
    upcycled = moezoo.create_model("entity_moe/test_vit2", img_size=32, num_experts=2)
    moezoo.upcycle(upcycled, "last", num_experts=2)
    with pytest.raises(InputError, match="upcycled model"):
        save_single_file(upcycled, path, dataset="digits")
    assert read_single_file(path).config.num_classes == 3  # the older file is whole


def test_a_save_waits_for_another_one_into_the_same_folder(model, tmp_path):
    """They share the place for drafts, which a save of a whole model clears first."""
    path = tmp_path / "a.safetensors"
    with exclusive(tmp_path):
        waiting = threading.Thread(target=save_single_file, args=(model, path), kwargs={"dataset": "digits"})
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert list(tmp_path.iterdir()) == []
    waiting.join(60)
    assert read_single_file(path).dataset == "digits"


def test_nan_is_not_written_over_a_sound_file(model, tmp_path):
    path = save_single_file(model, tmp_path / "a.safetensors", dataset="digits")
    before = path.read_bytes()
    weight = next(model.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0] = float("nan")
    try:
        with pytest.raises(NonFiniteError, match="NaN"):
            save_single_file(model, path, dataset="digits")
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert path.read_bytes() == before
