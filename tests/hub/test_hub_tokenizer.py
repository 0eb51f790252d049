"""A model that reads text keeps its vocabulary: saved, pulled, pushed and replaced together with the weights."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from huggingface_hub import constants
from text_files import clip_files

import moezoo
from moezoo.data.text import clip_tokenizer, train_bpe
from moezoo.errors import ConfigError, WeightsCorrupted, WeightsMismatch, WeightsUnavailable
from moezoo.hub import files as files_module
from moezoo.hub import pull_model, push_folder
from moezoo.hub.files import file_digest
from moezoo.hub.stored import read_stored

TOKEN = "hf_writerWRITERwriter"
ONE = train_bpe(["a photo of a cat", "一张猫的照片"], vocab_size=400)
OTHER = train_bpe(["a photo of a dog"], vocab_size=400)


@pytest.fixture
def reader(model):
    model.tokenizer = ONE
    return model


def load(folder):
    return moezoo.create_model(f"local-dir:{folder}", pretrained=True)


def resealed(folder, text):
    """A tokenizer that somebody wrote, and ``config.json`` made to vouch for it."""
    (folder / "tokenizer.json").write_text(text)
    path = folder / "config.json"
    hashed = file_digest(folder / "tokenizer.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_sha256": hashed}))
    return folder


def test_a_tokenizer_is_saved_beside_the_weights_and_comes_back(reader, tmp_path):
    folder = moezoo.save_pretrained(reader, tmp_path / "saved")
    assert (folder / "tokenizer.json").read_text() == ONE.to_json()
    content = json.loads((folder / "config.json").read_text())
    assert content["tokenizer_sha256"] == file_digest(folder / "tokenizer.json")
    assert isinstance(content["weights_sha256"], str)
    assert load(folder).tokenizer == ONE
    assert getattr(moezoo.create_model(f"local-dir:{folder}"), "tokenizer", None) is None  # fresh weights know no ids
    of_preset = moezoo.create_model("entity_moe/digits", pretrained=f"local-dir:{folder}")
    assert of_preset.tokenizer == ONE
    sharded = moezoo.save_pretrained(reader, tmp_path / "sharded", max_shard_size="200KB")
    assert "tokenizer.json" not in read_stored(f"local-dir:{sharded}").hashes
    assert load(sharded).tokenizer == ONE
    # What a foreign reader makes of the file.
    from transformers import PreTrainedTokenizerFast

    foreign = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert (
        foreign.encode("a photo of a cat", add_special_tokens=False)
        == ONE.encode_ids(["a photo of a cat"], 32)[0][1:-1]
    )


def test_clips_tokenizer_is_stored_whole(reader, tmp_path):
    clip = clip_tokenizer(clip_files(tmp_path / "clip"), size=540)
    reader.tokenizer = clip
    folder = moezoo.save_pretrained(reader, tmp_path / "saved")
    for path in (tmp_path / "clip").iterdir():
        path.unlink()
    assert load(folder).tokenizer == clip
    assert load(folder).tokenizer.kind == "clip"


def test_a_saved_model_without_tokenizer_takes_the_older_ones_file_away_and_no_other(reader, tmp_path):
    folder = moezoo.save_pretrained(reader, tmp_path / "saved")
    reader.tokenizer = OTHER
    moezoo.save_pretrained(reader, folder)
    assert load(folder).tokenizer == OTHER
    reader.tokenizer = None
    moezoo.save_pretrained(reader, folder)
    assert not (folder / "tokenizer.json").exists()
    (folder / "tokenizer.json").write_text("mine")  # of no model here
    moezoo.save_pretrained(reader, folder)
    assert (folder / "tokenizer.json").read_text() == "mine"
    assert getattr(load(folder), "tokenizer", None) is None


def test_a_damaged_missing_or_foreign_tokenizer_is_told(reader, tmp_path, caplog):
    folder = moezoo.save_pretrained(reader, tmp_path / "saved")
    file = folder / "tokenizer.json"
    file.write_text(ONE.to_json().replace('"Ġcat"', '"Ġcow"'))
    with pytest.raises(WeightsCorrupted, match=r"tokenizer\.json.*expected sha256"):
        load(folder)
    with pytest.raises(WeightsCorrupted, match=r"tokenizer\.json.*expected sha256"):
        push_folder(folder, "user/repo", token=TOKEN)
    for text in ("{}", "not JSON", ONE.to_json()[:-100], ONE.to_json().replace("<bos>", "<bis>")):
        with pytest.raises(WeightsCorrupted, match=r"tokenizer\.json: .*tokenizer"):
            load(resealed(folder, text))
    file.unlink()
    with caplog.at_level(logging.WARNING, logger="moezoo"):
        assert getattr(load(folder), "tokenizer", None) is None
    assert "saved with a tokenizer, but tokenizer.json is missing" in caplog.text
    with pytest.raises(WeightsUnavailable, match=r"tokenizer\.json"):
        pull_model(f"local-dir:{folder}", tmp_path / "copy")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_sha256": "abc"}))
    with pytest.raises(ConfigError, match="tokenizer_sha256='abc'"):
        load(folder)


def test_a_vocabulary_larger_than_the_models_is_refused_both_ways(tmp_path):
    model = moezoo.create_model("diff_moe/digits", vocab_size=300, embed_dim=16, img_encoder_layers=1)
    model.tokenizer = train_bpe([f"word{i}" for i in range(99)], vocab_size=400)
    with pytest.raises(ConfigError, match=r"bpe tokenizer has 3\d\d tokens, the model vocab_size=300"):
        moezoo.save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    large, model.tokenizer = model.tokenizer, train_bpe(["a dog"], vocab_size=300)
    moezoo.save_pretrained(model, tmp_path)
    assert load(tmp_path).tokenizer == model.tokenizer
    with pytest.raises(WeightsMismatch, match=r"tokenizer\.json has 3\d\d tokens, the model vocab_size=300"):
        load(resealed(tmp_path, large.to_json()))


def test_a_kill_at_any_rename_leaves_weights_and_tokenizer_of_one_save(reader, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, moves = files_module.os.replace, 0

    def stop(source, target):
        nonlocal moves
        if moves == 0:
            raise Killed
        moves -= 1
        real(source, target)

    before = reader.head.bias.detach().clone()
    found = []
    for at in range(6):
        with torch.no_grad():
            reader.head.bias.copy_(before)
        reader.tokenizer = ONE
        folder = moezoo.save_pretrained(reader, tmp_path / str(at))
        with torch.no_grad():
            reader.head.bias.add_(1)
        reader.tokenizer = OTHER
        with monkeypatch.context() as patch:
            patch.setattr(files_module.os, "replace", stop)
            patch.setattr("moezoo.hub.swap.tidy", lambda folder: None)
            moves = at
            with pytest.raises(Killed):
                moezoo.save_pretrained(reader, folder)
        back = load(folder)
        found.append((torch.equal(back.head.bias, before), back.tokenizer == ONE))
        moezoo.save_pretrained(reader, folder)
        assert sorted(p.name for p in folder.iterdir() if p.name.startswith(("model", "token"))) == [
            "model.safetensors",
            "tokenizer.json",
        ]
        assert load(folder).tokenizer == OTHER
    assert found == [(True, True)] * 3 + [(False, False)] * 3  # two staged files, then the configuration decides


def test_push_and_pull_carry_it_and_a_later_push_takes_it_away(hub, reader, tmp_path, monkeypatch):
    hub.users[TOKEN] = "user"
    name = moezoo.push_to_hub(reader, "user/reader", token=TOKEN)
    assert hub.files("user/reader")["tokenizer.json"] == ONE.to_json().encode()
    cache = tmp_path / "cache"
    assert moezoo.create_model(name, pretrained=True, cache_dir=cache).tokenizer == ONE
    folder = pull_model(name, tmp_path / "pulled", cache_dir=cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load(folder).tokenizer == ONE
    assert moezoo.create_model(name, pretrained=True, cache_dir=cache).tokenizer == ONE  # from the cache
    monkeypatch.undo()
    reader.tokenizer = None
    moezoo.push_to_hub(reader, "user/reader", token=TOKEN)
    assert "tokenizer.json" not in hub.files("user/reader")


def test_a_layer_that_is_called_tokenizer_is_no_vocabulary(model, tmp_path):
    model.tokenizer = torch.nn.Identity()
    folder = moezoo.save_pretrained(model, tmp_path)
    assert not (folder / "tokenizer.json").exists()
