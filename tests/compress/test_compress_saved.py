"""Pruned and quantised models in a folder and back."""

from __future__ import annotations

import json

import pytest
import torch
from compressible import MODELS, answer, images_for
from safetensors.torch import load_file, save_file

import moezoo
from moezoo.altered.weights import put_int8, quantisable
from moezoo.compress import is_quantized, prune_experts, prune_hidden, quantize, size_of
from moezoo.errors import ConfigError, InputError, WeightsMismatch
from moezoo.hub import pull_model, save_single_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pruned and quantised model with its folder, and the folder of the float one."""
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/digits").eval()
    folder = tmp_path_factory.mktemp("saved")
    moezoo.save_pretrained(model, folder / "float")
    prune_experts(model, keep=3, data=images_for(model, 2))
    prune_hidden(model, 0.3)
    moezoo.save_pretrained(model, folder / "pruned")
    quantize(model, "int8_dynamic")
    moezoo.save_pretrained(model, folder / "int8")
    return model, folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["int8_dynamic", None])
def test_a_compressed_model_loads_and_answers_to_the_bit(name, mode, tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model(name).eval()
    images = images_for(model, 2)
    whole = size_of(model)
    moezoo.save_pretrained(model, tmp_path / "before")
    if mode is None:
        prune_hidden(model, 0.4)
    else:
        quantize(model, mode)
    moezoo.save_pretrained(model, tmp_path / "after")
    again = moezoo.create_model(f"local-dir:{tmp_path / 'after'}", pretrained=True).eval()
    assert torch.equal(answer(again, images), answer(model, images))
    assert size_of(again) == size_of(model)
    assert is_quantized(again) == (mode is not None)
    on_disk = [(tmp_path / part / "model.safetensors").stat().st_size for part in ("before", "after")]
    assert on_disk[0] > (3 if mode else 1.1) * on_disk[1]
    fresh = moezoo.create_model(f"local-dir:{tmp_path / 'after'}", pretrained=False)
    assert size_of(fresh) == whole


def test_a_file_with_fewer_int8_weights_than_would_be_made_now_loads(tmp_path):
    model = moezoo.create_model("multiscale_moe/synthetic").eval()
    places = quantisable(model)
    assert "backbone.pos_embed" in places
    put_int8({name: place for name, place in places.items() if name != "backbone.pos_embed"}, "int8_weight_only")
    moezoo.save_pretrained(model, tmp_path)
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert isinstance(again.backbone.pos_embed, torch.nn.Parameter)
    images = images_for(model, 2)
    assert torch.equal(answer(again, images), answer(model, images))


def test_resized_position_embeddings_are_saved_as_the_parameters_that_they_are(tmp_path):
    model = quantize(moezoo.create_model("vmoe/digits").eval())
    model.set_input_size(24)
    moezoo.save_pretrained(model, tmp_path)
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 1, 24, 24)
    assert torch.equal(again(images), model(images))
    assert is_quantized(again)


def test_the_configuration_says_all_that_was_done_and_a_copy_keeps_it(saved, tmp_path):
    model, folder = saved
    content = json.loads((folder / "int8" / "config.json").read_text())
    assert content["config"]["num_experts"] == 3
    note = content["compression"]
    assert note["int8_mode"] == "int8_dynamic"
    assert "blocks.2.entity_moe.moe.experts.w_in" in note["int8_weights"]
    assert note["hidden"]["blocks.0.mlp"] == 90
    images = images_for(model, 2)
    copy = pull_model(f"local-dir:{folder / 'int8'}", tmp_path / "copy")
    again = moezoo.create_model(f"local-dir:{copy}", pretrained=True)
    assert torch.equal(answer(again, images), answer(model, images))
    moezoo.save_pretrained(again, tmp_path / "twice")
    assert json.loads((tmp_path / "twice" / "config.json").read_text())["compression"] == note
    assert json.loads((folder / "float" / "config.json").read_text())["compression"] is None


def test_the_card_says_what_was_taken_out(saved):
    said = [(saved[1] / part / "README.md").read_text() for part in ("float", "pruned", "int8")]
    assert ["was compressed" in card for card in said] == [False, True, True]
    assert ["fewer hidden units" in card for card in said] == [False, True, True]
    assert ["int8 (`int8_dynamic`)" in card for card in said] == [False, False, True]


def test_a_pruned_model_is_trained_on_and_takes_another_head(saved):
    _, folder = saved
    model = moezoo.create_model(f"local-dir:{folder / 'pruned'}", pretrained=True, num_classes=4)
    assert model.training
    images = images_for(model, 2)
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match=r"int8, which loads only as it is: num_classes=4.*num_classes=10"):
        moezoo.create_model(f"local-dir:{folder / 'int8'}", pretrained=True, num_classes=4)


def test_a_wrong_pairing_says_what_would_be_right(saved):
    model, folder = saved
    plain = moezoo.create_model(f"local-dir:{folder / 'pruned'}", pretrained=True)
    with pytest.raises(WeightsMismatch, match="quantised to int8: load the folder"):
        moezoo.hub.load_weights(plain, folder / "int8" / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="load it before quantising"):
        moezoo.hub.load_weights(model, folder / "pruned" / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="shape"):
        moezoo.create_model("entity_moe/digits", num_experts=3, checkpoint_path=folder / "pruned" / "model.safetensors")
    with pytest.raises(InputError, match="include_backbone"):
        moezoo.save_pretrained(plain, folder / "part", include_backbone=False)
    with pytest.raises(InputError, match="save_single_file"):
        save_single_file(plain, folder / "one.safetensors", dataset="digits")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a model that is quickly built."""
    folder = tmp_path_factory.mktemp("small")
    model = moezoo.create_model("attention_routing/digits")
    prune_hidden(model, 0.3)
    moezoo.save_pretrained(quantize(model), folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": {"moe.experts.members.0.layer.0": 3}}, r"Did you mean: moe\.experts\.members\.0\.layers\.0"),
        ({"hidden": {"moe.experts.members.0.layers.0": 0}}, "cannot have 0 units"),
        ({"hidden": {"moe.experts.members.0.layers.0": 999}}, "cannot have 999 units: it is built with 128"),
        ({"hidden": {"moe.experts.members.0.layers.0": "3"}}, "hidden"),
        ({"int8_mode": "int2"}, "int8_mode='int2'"),
        ({"int8_mode": None}, "int8_mode=None"),
        ({"int8_weights": ["head.classifier.bias"]}, "cannot be int8"),
        ({"int4": True}, "int4"),
    ],
)
def test_a_note_that_does_not_fit_the_model_is_refused(small, change, message, tmp_path):
    content = json.loads((small / "config.json").read_text())
    content["compression"] |= change
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=message):
        moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_another_type_in_the_file_is_a_mismatch(saved, tmp_path):
    model, folder = saved
    state = load_file(folder / "int8" / "model.safetensors")
    name = "head.weight_int8" if "head.weight_int8" in state else next(n for n in state if n.endswith("_int8"))
    save_file({**state, name: state[name].float()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=rf"dtype.*{name}: file float32 vs model int8"):
        moezoo.hub.load_weights(model, tmp_path / "model.safetensors")
