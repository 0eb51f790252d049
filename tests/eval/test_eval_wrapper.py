"""Pictures in, and out come logits, where every layer looked and what its router decided: all three as computed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import save_digit
from PIL import Image
from text_toys import TwoTowers

import moezoo
from moezoo.backbones.attention import record_attention
from moezoo.data import ImageTensors
from moezoo.data.text import class_sentences, make_tokenizer
from moezoo.errors import InputError
from moezoo.eval import ModelWrapper, evaluate, image_transform, predict_files, robustness


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = moezoo.create_model("diff_moe/digits", initializer_range=0.2)
    sentences = [sentence for own in class_sentences("digits") for sentence in own]
    model.tokenizer = make_tokenizer(sentences, vocab_size=model.moezoo_config.vocab_size, kind="bpe")
    return model


def test_arrays_pictures_and_tensors_get_the_same_answer(model, tmp_path):
    pictures = [Image.open(save_digit(i, tmp_path / f"{i}.png")).convert("L") for i in range(3)]
    array = np.stack([np.asarray(picture) for picture in pictures])
    tensor = torch.stack([image_transform(model)(picture) for picture in pictures])
    wrapper = ModelWrapper(model.train())
    expected = wrapper.predict(tensor)["logits"]
    assert model.training
    with torch.no_grad():
        assert torch.allclose(model.eval()(tensor).logits, expected, atol=1e-5)
    colour = array[..., None].repeat(3, -1)
    for images in (array, array[..., None], colour, array / 255, colour.astype(np.float32) / 255, pictures):
        assert torch.equal(wrapper.predict(images)["logits"], expected)
    for one in (array[0], array[0][..., None], colour[0], pictures[0], [pictures[0].convert("RGB")]):
        assert torch.allclose(wrapper.predict(one)["logits"], expected[:1], atol=1e-5)


def test_attention_and_routing_are_those_of_the_forward(model):
    model.eval()
    images = torch.randn(2, 1, 16, 16)
    found = ModelWrapper(model).predict(images)
    with record_attention(model) as attention, moezoo.record_routing(model) as routing, torch.no_grad():
        model(images)
    assert set(found) == {"logits", "attention_weights", "router_decisions"}
    assert list(found["attention_weights"]) == [each.name for each in attention]
    for each in attention:
        assert torch.equal(found["attention_weights"][each.name], each.weights)
        assert torch.allclose(each.weights.sum(-1), torch.ones(()))
    assert list(found["router_decisions"]) == [each.name for each in routing]
    for each in routing:
        decision = found["router_decisions"][each.name]
        assert (decision.grid, decision.prefix_tokens) == (each.grid, each.prefix_tokens)
        rows, columns = each.grid
        experts = model.moezoo_config.num_general_experts
        assert decision.weights.shape == (2, rows * columns, experts)
        assert ((decision.weights > 0).sum(-1) == model.moezoo_config.top_k).all()
        assert torch.equal(decision.weights.argmax(-1), decision.experts)
        top = each.routing.probs.topk(model.moezoo_config.top_k)
        assert torch.equal(decision.experts.flatten(), top.indices[:, 0])
        weights = top.values / top.values.sum(-1, keepdim=True)
        assert torch.allclose(decision.weights.view(-1, experts).gather(1, top.indices), weights, atol=1e-6)


def test_a_sentence_for_each_image_shows_where_it_looks_and_routes_words_without_their_padding(model):
    told = ["a handwritten zero", "this is the digit one, a single stroke"]
    found = ModelWrapper(model).predict(torch.randn(2, 1, 16, 16), told)
    ids, mask = model.tokenizer.encode(told, 32)
    assert found["attention_weights"]["fusion.cross_attn"].shape[-1] == ids.shape[1]
    padding = found["attention_weights"]["fusion.cross_attn"].sum((1, 2))[~mask]
    assert len(padding) > 0
    assert (padding == 0).all()
    words = found["router_decisions"]["text_encoder.blocks.0.general_experts"]
    assert words.weights.shape[0] == len(words.experts) == int(mask.sum())


def test_any_classifier_of_images_can_be_wrapped():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    found = ModelWrapper(model).predict(np.zeros((2, 16, 16), np.uint8))
    assert {name.split(".")[0] for name in found["attention_weights"]} == {"blocks"}
    assert list(found["router_decisions"]) == ["blocks.5.entity_moe.moe"]
    assert found["router_decisions"]["blocks.5.entity_moe.moe"].prefix_tokens == 1


def test_pictures_are_read_as_their_files_are(model, tmp_path):
    """16 bits are scaled, transparency is white, a photograph is turned upright: as ``moezoo predict`` does it."""
    grey = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, :8, 3] = 255
    turned = Image.fromarray((np.arange(256) % 251).astype(np.uint8).reshape(16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(clear).save(tmp_path / "clear.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("grey", "clear", "turned"):
        path = tmp_path / f"{name}.png"
        found = ModelWrapper(model).predict(Image.open(path))["logits"].softmax(-1).max()
        (expected,) = predict_files(model, [path], top=1)
        assert float(found) == pytest.approx(expected.probabilities[0], abs=1e-6), name


def test_mistakes_are_named(model):
    wrapper = ModelWrapper(model)
    grey = np.zeros((2, 16, 16))
    for images, says in [
        (grey.astype(np.int64), "uint8 or floats, got int64"),
        (grey + 2, "from 0 to 1"),
        (grey * np.nan, "from 0 to 1"),
        (np.zeros((2, 16, 16, 2), np.uint8), r"got \(2, 16, 16, 2\)"),
        (np.zeros(16, np.uint8), r"got \(16,\)"),
        (torch.zeros(1, 16, 16), r"\(B, C, H, W\).*got \(1, 16, 16\)"),
        ([], "got none"),
        (["a.png"], "got str"),
        (None, "got NoneType"),
        (Path("a.png"), "got PosixPath|got WindowsPath"),
        ([Image.fromarray(np.full((16, 16), -1, np.int32))], "pixel values from -1"),
    ]:
        with pytest.raises(InputError, match=says):
            wrapper.predict(images)
    picture = Image.new("L", (16, 16))
    for text in ("a zero", ["a zero", "a one"]):
        with pytest.raises(InputError, match="text must be 1 sentences"):
            wrapper.predict(picture, text)
    with pytest.raises(InputError, match="reads text"):
        ModelWrapper(moezoo.create_model("entity_moe/test_vit")).predict(picture, ["a zero"])


def test_models_that_answer_with_a_mapping_are_evaluated_by_its_logits_of_the_images_alone():
    torch.manual_seed(0)
    model, data = TwoTowers("zero one two"), ImageTensors(torch.randn(9, 1, 2, 2), torch.arange(9) % 3)
    with torch.no_grad():
        logits = model.head(model.encode_image(data.images))
    report = evaluate(model, data)
    assert report.classification.top1 == float((logits.argmax(-1) == data.labels).double().mean())
    assert report.text is None
    worse = robustness(model, data, mean=[0.0], std=[1.0])
    assert len(worse.corrupted) == 9
    model.head = torch.nn.Identity()
    model.forward = lambda images: {"embeddings": images}
    with pytest.raises(InputError, match=r"TwoTowers must answer 9 images .* got a mapping of embeddings"):
        evaluate(model, data)
