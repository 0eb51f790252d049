"""``load_weights``: a bad file is an error that names what is wrong, and the module keeps every bit."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

import moezoo
from moezoo.errors import ConfigError, NonFiniteError, WeightsCorrupted, WeightsMismatch, WeightsUnavailable
from moezoo.hub.load import check_header, compare, header_shapes, load_weights, model_shapes, read_stored


class Evil:
    """Unpickling this creates the canary file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def damaged(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda good: b"",
        lambda good: good[:5],
        lambda good: good[:200],
        lambda good: good[: len(good) // 2],
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
        lambda good: b"<!DOCTYPE html><html><body>404</body></html>",
        lambda good: good[:9] + b"\xff" + good[10:],
    ],
    ids=["empty", "few bytes", "cut header", "cut body", "short", "long", "lfs pointer", "html", "not json"],
)
def test_a_damaged_file_is_named_and_the_module_untouched(saved, untouched, make):
    path = saved / "model.safetensors"
    damaged(path, make(path.read_bytes()))
    with pytest.raises(WeightsCorrupted, match=str(path)):
        load_weights(untouched, path)


def test_one_flipped_bit_is_caught_by_the_hash_of_config_json(saved, untouched):
    stored = read_stored(f"local-dir:{saved}")
    path = stored.weights_path()
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    damaged(path, bytes(content))
    with pytest.raises(WeightsCorrupted, match=f"expected sha256 {stored.weights_sha256}"):
        load_weights(untouched, path, sha256=stored.weights_sha256)
    with pytest.raises(WeightsCorrupted, match="sha256"):
        moezoo.create_model(f"local-dir:{saved}", pretrained=True)


def test_every_difference_is_listed_in_one_error(saved, untouched):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    del tensors["fc_norm.bias"]
    tensors["stranger"] = torch.zeros(1)
    tensors["head.weight"] = torch.zeros(7, 64)
    tensors["fc_norm.weight"] = torch.zeros(64, dtype=torch.int32)
    save_file(tensors, path)
    with pytest.raises(WeightsMismatch) as caught:
        load_weights(untouched, path)
    text = str(caught.value)
    for words in (
        str(path),
        "missing in the file (1): fc_norm.bias",
        "unexpected in the file (1): stranger",
        "shape (1): head.weight: file (7, 64) vs model (10, 64)",
        "dtype (1): fc_norm.weight: file int32 vs model float32",
    ):
        assert words in text


def test_long_lists_are_capped_with_a_count():
    model = {f"layer{i}": ((1,), torch.float32) for i in range(50)}
    with pytest.raises(WeightsMismatch, match=r"missing in the file \(50\): .*layer7 and 42 more") as caught:
        compare(model, {})
    assert "layer8" not in str(caught.value)


def test_another_number_of_experts_is_named(saved):
    other = moezoo.create_model("entity_moe/digits", num_experts=8)
    with pytest.raises(WeightsMismatch, match=r"saved with num_experts=4, the model has num_experts=8"):
        load_weights(other, saved / "model.safetensors")


def test_another_number_of_classes_is_named_and_no_head_is_left_random(saved):
    content = json.loads((saved / "config.json").read_text())
    content["config"]["num_classes"], content["label_names"] = 12, None
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsMismatch, match=r"head has 10 outputs, the model's 12: look at num_classes"):
        moezoo.create_model(f"local-dir:{saved}", pretrained=True)


def test_kept_names_stay_the_models_own_and_are_logged(saved, caplog):
    other = moezoo.create_model("entity_moe/digits", num_classes=3)
    head = other.head.weight.clone()
    with caplog.at_level(logging.INFO, "moezoo"):
        load_weights(other, saved / "model.safetensors", keep={"head.weight", "head.bias"})
    assert torch.equal(other.head.weight, head)
    assert torch.equal(other.fc_norm.weight, load_file(saved / "model.safetensors")["fc_norm.weight"])
    assert "keeps its own head.bias, head.weight" in caplog.text


def test_float_widths_load_into_each_other_with_a_log_line(saved, model, caplog):
    path = saved / "model.safetensors"
    half = {n: v.half() if v.is_floating_point() else v for n, v in load_file(path).items()}
    save_file(half, path)
    with caplog.at_level(logging.INFO, "moezoo"):
        load_weights(model, path)
    assert model.fc_norm.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, half["head.weight"].float())
    assert "converted to the model's dtype" in caplog.text


def test_nonfinite_tensors_are_named_unless_allowed(saved, model):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    tensors["head.bias"][0] = float("inf")
    save_file(tensors, path)
    before = model.head.bias.clone()
    with pytest.raises(NonFiniteError, match=r"head\.bias \(1 of 10 values\)"):
        load_weights(model, path)
    assert torch.equal(model.head.bias, before)
    load_weights(model, path, allow_nonfinite=True)
    assert torch.isinf(model.head.bias[0])


def pickles(canary):
    zipped = io.BytesIO()
    torch.save({"w": Evil(canary)}, zipped)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil(canary)))
    return [pickle.dumps(Evil(canary)), zipped.getvalue(), archive.getvalue()]


def test_a_pickle_under_a_safetensors_name_is_never_unpickled(tmp_path, untouched):
    canary = tmp_path / "canary"
    for content in pickles(canary):
        with pytest.raises(WeightsCorrupted):
            load_weights(untouched, damaged(tmp_path / "model.safetensors", content))
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".npz", ""])
def test_other_kinds_of_file_are_refused_unopened(tmp_path, untouched, suffix):
    canary = tmp_path / "canary"
    path = damaged(tmp_path / f"weights{suffix}", pickles(canary)[1])
    with pytest.raises(ConfigError, match=rf"moezoo convert pth {path}'"):
        load_weights(untouched, path)
    with pytest.raises(ConfigError, match="safetensors"):
        moezoo.create_model("entity_moe/digits", checkpoint_path=path)
    assert not canary.exists()


def test_a_missing_file_or_a_folder_is_unavailable(tmp_path, untouched):
    (tmp_path / "dir.safetensors").mkdir()
    for name in ("absent.safetensors", "dir.safetensors"):
        with pytest.raises(WeightsUnavailable, match=name):
            load_weights(untouched, tmp_path / name)


def test_the_header_is_compared_with_a_model_that_holds_no_memory(saved):
    with torch.device("meta"):
        skeleton = moezoo.create_model("entity_moe/digits")
        larger = moezoo.create_model("entity_moe/digits", mlp_ratio=4.0)
    assert next(skeleton.parameters()).is_meta
    check_header(skeleton, saved / "model.safetensors")
    assert header_shapes(saved / "model.safetensors") == model_shapes(skeleton)
    with pytest.raises(WeightsMismatch, match="w_in"):
        check_header(larger, saved / "model.safetensors")
