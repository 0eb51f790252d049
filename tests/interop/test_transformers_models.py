"""Our models behind transformers' Auto classes: configuration, round trips, labels, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

import moezoo
from moezoo.errors import ConfigError, UnknownModelError, WeightsCorrupted, WeightsMismatch
from moezoo.transformers import MoeZooConfig, MoeZooForImageClassification, image_processor

SWIN = {"backbone_args": {"depths": [1, 1], "embed_dim": 24, "num_heads": [1, 2]}, "img_size": 56, "num_classes": 3}
"""A backbone with buffers that no checkpoint holds."""
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/swin_tiny", **SWIN).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    model.label_names = NAMES
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("transformers")
    wrapped = MoeZooForImageClassification.from_moezoo(model)
    wrapped.save_pretrained(path)
    image_processor(wrapped).save_pretrained(path)
    return path


def assert_same(again, model, images):
    """Bit for bit in all tensors and logits."""
    assert not again.training
    inside, state = again.model.state_dict(), model.state_dict()
    assert inside.keys() == state.keys()
    assert all(torch.equal(inside[name], tensor) for name, tensor in state.items())
    with torch.no_grad():
        for noise in torch.rand(
            20, *[1] * images.dim()
        ):  # weights in unaligned memory would round some of them otherwise
            assert torch.equal(again(images * noise).logits, model(images * noise))


def test_a_saved_model_comes_back_bit_for_bit_through_the_auto_classes(model, images, folder):
    again = AutoModelForImageClassification.from_pretrained(folder)
    assert type(again) is MoeZooForImageClassification
    assert_same(again, model, images)
    assert torch.equal(again(images, return_dict=False)[0], again(images).logits)
    assert again.config.id2label == dict(enumerate(NAMES))
    assert again.config.label2id == {name: index for index, name in enumerate(NAMES)}
    for name, tensor in model.named_buffers():
        assert torch.equal(tensor, again.model.get_buffer(name)), name
    inside = again.to_moezoo()
    assert inside is again.model
    assert (inside.moezoo_name, inside.label_names) == ("entity_moe/swin_tiny", NAMES)
    assert inside.moezoo_config == model.moezoo_config
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, MoeZooConfig)
    assert AutoModelForImageClassification.from_config(config)(images).logits.shape == (2, 3)


def test_another_number_of_labels_gets_a_fresh_head_only_when_asked(folder, images):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForImageClassification.from_pretrained(folder, num_labels=5)
    torch.manual_seed(0)
    other = AutoModelForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert other(images).logits.shape == (2, 5)
    assert 0 < other.model.head.fc.weight.abs().max() < 1
    assert len(other.config.id2label) == 5


def test_a_folder_of_moezoo_is_read_and_checked(model, images, tmp_path):
    moezoo.save_pretrained(model, tmp_path / "stored")
    again = MoeZooForImageClassification.from_pretrained(tmp_path / "stored")
    assert_same(again, model, images)
    assert again.config.id2label[2] == "owl"
    classify = pipeline("image-classification", model=str(tmp_path / "stored"))
    assert type(classify.model) is MoeZooForImageClassification
    assert classify(Image.new("RGB", (70, 70)))[0]["label"] in NAMES
    other = MoeZooForImageClassification.from_pretrained(tmp_path / "stored", num_labels=4, dtype="bfloat16")
    assert other(images.bfloat16()).logits.shape == (2, 4)
    place = MoeZooForImageClassification.from_pretrained(tmp_path / "stored", device_map={"": "cpu"}).device
    assert place == torch.device("cpu")
    with pytest.raises(ConfigError, match="device_map='balanced' is not allowed"):
        MoeZooForImageClassification.from_pretrained(tmp_path / "stored", device_map="balanced")
    assert_same(MoeZooForImageClassification.from_moezoo(tmp_path / "stored").eval(), model, images)
    weights = tmp_path / "stored" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsCorrupted):
        MoeZooForImageClassification.from_pretrained(tmp_path / "stored")


def test_pruned_experts_are_saved_as_they_are(tmp_path):
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True).eval()
    layer = model.blocks[-1].entity_moe
    layer = next(module for module in layer.modules() if isinstance(module, moezoo.moe.MoELayer))
    moezoo.moe.prune_experts(layer, keep=2, data=torch.randn(1, 16, 64))
    wrapped = MoeZooForImageClassification.from_moezoo(model)
    wrapped.save_pretrained(tmp_path)
    again = MoeZooForImageClassification.from_pretrained(tmp_path)
    assert_same(again, model, torch.randn(2, 1, 16, 16))
    assert again.model.moezoo_config.num_experts == 2


def test_missing_weights_mistakes_and_pickles_are_refused(folder, tmp_path, model):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file({key: value for key, value in state.items() if "head" not in key}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"missing model\.head\.fc\.bias"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="use_safetensors"):
        MoeZooForImageClassification.from_pretrained(folder, use_safetensors=False)
    with pytest.raises(UnknownModelError, match="entity_moe/swin_tiny"):
        MoeZooConfig("entity_moe/swin_tyni")
    with pytest.raises(ConfigError, match="num_expert"):
        MoeZooConfig("entity_moe/swin_tiny", {"num_expert": 3})
    for name in ("entity_moe/sam_vit_base", "entity_moe/hf:facebook/dinov2-small"):
        with pytest.raises(ConfigError, match="give num_labels="):
            MoeZooConfig(name)
    with pytest.raises(ConfigError, match=r"Linear has no moezoo_config"):
        MoeZooForImageClassification.from_moezoo(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="num_classes"):
        MoeZooForImageClassification.from_moezoo(model, num_classes=3)


def test_the_pipeline_names_the_class_that_timms_transform_leads_to(model, folder, tmp_path):
    picture = Image.effect_noise((70, 70), 90).convert("RGB")  # even margins, which everyone rounds alike
    picture.save(tmp_path / "picture.png")
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    wanted = create_transform(**resolve_model_data_config(model))(picture)[None]
    assert pixels.shape == wanted.shape
    assert (pixels - wanted).abs().mean() < 0.01
    classify = pipeline("image-classification", model=str(folder))
    (top, *_rest) = classify(str(tmp_path / "picture.png"))
    scores = model(pixels).softmax(1)[0]
    assert top["label"] == NAMES[scores.argmax()]
    assert top["score"] == pytest.approx(scores.max().item(), abs=1e-5)


def test_the_processor_file_is_plain_and_needs_what_the_model_states(folder, model):
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    assert stated["image_processor_type"] == "BitImageProcessor"
    assert stated["size"] == {"shortest_edge": 62}
    assert image_processor(model).to_dict()["crop_size"]["height"] == 56
    with pytest.raises(ConfigError, match=r"config\.data states nothing"):
        image_processor(MoeZooConfig("entity_moe/swin_tiny"))


def test_repositories_of_both_kinds_load_from_the_hub(model, images, folder, tmp_path, hub):
    moezoo.save_pretrained(model, tmp_path / "stored")
    for name, place in (("user/theirs", folder), ("user/ours", tmp_path / "stored")):
        hub.put(name, {file.name: file.read_bytes() for file in place.iterdir()}, lfs=("model.safetensors",))
        again = MoeZooForImageClassification.from_pretrained(name, cache_dir=tmp_path / "cache")
        assert_same(again, model, images)
        assert again.config.id2label == dict(enumerate(NAMES))


def test_a_model_that_answers_with_a_mapping_is_a_classifier_too(tmp_path):
    model = moezoo.create_model("diff_moe/digits", num_classes=3)
    model.label_names = NAMES
    wrapped = MoeZooForImageClassification.from_moezoo(model)
    images = torch.randn(2, 1, 16, 16)
    output = wrapped(images, labels=torch.tensor([0, 2]))
    assert torch.equal(output.aux_loss, moezoo.aux_loss(model))
    output.loss.backward()
    wrapped.eval().save_pretrained(tmp_path)
    again = MoeZooForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, model(images).logits)


def test_a_model_of_identities_answers_with_its_scores_and_comes_back(tmp_path):
    torch.manual_seed(0)
    small = {"num_classes": 4, "img_size": (32, 16), "scales": (1, 4), "modalities": ("RGB", "NIR")}
    wrapped = MoeZooForImageClassification.from_moezoo("multiscale_moe/synthetic", **small)
    sightings = torch.randn(3, 2, 3, 32, 16)
    out = wrapped.train()(sightings, labels=torch.tensor([0, 1, 2]))
    assert out.logits.shape == (3, 4)
    assert out.aux_loss > 0
    out.loss.backward()
    wrapped.eval().save_pretrained(tmp_path)
    again = MoeZooForImageClassification.from_pretrained(tmp_path).eval()
    assert again.model.moezoo_config == wrapped.model.moezoo_config
    with torch.no_grad():
        assert torch.equal(again(sightings).logits, wrapped(sightings).logits)
