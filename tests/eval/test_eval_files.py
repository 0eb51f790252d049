"""Classifying files: in order, whatever the batches; what cannot be read is said and costs the others nothing."""

import itertools
import os
import pickle

import numpy as np
import pytest
import torch
from image_files import damaged_files, save_digit
from PIL import Image
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.eval import image_transform, predict_files


@pytest.fixture(scope="module")
def model():
    return moezoo.create_model("entity_moe/test_vit", pretrained=True)


def test_digits_are_read_in_order_and_broken_files_are_passed_over(model, tmp_path):
    good = [save_digit(i, tmp_path / f"{i}.png") for i in range(10)]
    bad = damaged_files(tmp_path)
    paths = [
        good[0],
        bad["empty"],
        *good[1:5],
        bad["truncated"],
        bad["text"],
        *good[5:],
        tmp_path / "absent.png",
        tmp_path,
    ]
    model.train()
    found = list(predict_files(model, paths, top=3, batch_size=4))
    assert model.training
    assert [each.path for each in found] == [str(path) for path in paths]
    assert [each.labels[0] for each in found if each.labels][:5] == ["0", "1", "2", "3", "4"]
    for each in found:
        assert (each.error is None) == (each.path in map(str, good))
        assert len(each.labels) == len(each.probabilities) == (3 if each.error is None else 0)
        assert list(each.probabilities) == sorted(each.probabilities, reverse=True)
    errors = {os.path.basename(each.path): each.error for each in found if each.error}
    assert "0 bytes" in errors["empty.jpg"]
    assert "damaged" in errors["truncated.jpg"]
    assert "not an image" in errors["text.jpg"]
    assert "does not exist" in errors["absent.png"]
    # The neighbours of a broken file are what they are without it.
    transform = pickle.loads(pickle.dumps(image_transform(model)))  # as for the workers of a DataLoader
    alone = list(predict_files(model, good, top=3, batch_size=10, transform=transform))
    (single,) = predict_files(model, good[0], top=3)
    assert single.labels == alone[0].labels
    for each, other in zip([each for each in found if each.error is None], alone, strict=True):
        assert each.labels == other.labels
        assert each.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_every_kind_of_image_is_seen_as_it_is_meant(model, tmp_path):
    plain = save_digit(3, tmp_path / "plain.png")
    image = Image.open(plain)
    deep = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    image.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    image.convert("RGB").quantize(256).save(tmp_path / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it by 90 degrees clockwise
    image.rotate(90).save(tmp_path / "turned.png", exif=exif)
    image.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    expected, *others = predict_files(model, sorted(tmp_path.iterdir(), key=lambda path: path != plain))
    assert (expected.labels[0], len(others)) == ("3", 5)
    for each in others:
        assert each.error is None, each
        assert each.labels[0] == "3", each.path
        assert each.probabilities[0] == pytest.approx(expected.probabilities[0], abs=0.02)


def test_images_too_large_or_too_long_are_errors_and_take_no_memory(model, tmp_path, monkeypatch):
    Image.new("L", (200, 200)).save(tmp_path / "large.png")
    Image.new("L", (9000, 1)).save(tmp_path / "long.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    large, long = predict_files(model, [tmp_path / "large.png", tmp_path / "long.png"])
    assert "too large" in large.error
    assert "too long" in long.error


def test_only_two_batches_are_held_so_paths_may_be_endless(model, tmp_path):
    path, asked = save_digit(7, tmp_path / "7.png"), itertools.count()

    def endless():
        for _ in asked:
            yield path

    stream = predict_files(model, endless(), batch_size=3)
    for _ in range(5):
        assert next(stream).labels[0] == "7"
    stream.close()
    assert next(asked) <= 4 * 3


def test_routing_says_which_share_of_an_images_tokens_each_expert_got(model, tmp_path):
    paths = [save_digit(i, tmp_path / f"{i}.png") for i in range(3)]
    found = list(predict_files(model, [*paths, tmp_path / "absent.png"], routing=True))
    images = torch.stack([image_transform(model)(Image.open(path).convert("RGB")) for path in paths])
    with moezoo.record_routing(model.eval()) as records, torch.no_grad():
        model(images)
    tokens = records[0].routing.expert_index.view(3, -1)
    for each, chosen in zip(found, tokens, strict=False):
        assert list(each.routing) == [records[0].name]
        shares = torch.bincount(chosen, minlength=4) / chosen.numel()
        assert each.routing[records[0].name] == pytest.approx(shares.tolist())
    assert found[3].routing is None
    assert found[0].to_dict()["routing"][records[0].name] == pytest.approx(found[0].routing[records[0].name], abs=1e-6)


def test_an_answer_that_is_not_finite_is_said_and_never_ranked(tmp_path):
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    nn.init.constant_(model.head.bias, float("nan"))
    (found,) = predict_files(model, [save_digit(1, tmp_path / "1.png")])
    assert "not finite" in found.error
    assert (found.labels, found.probabilities) == ((), ())


def test_mistakes_are_found_before_the_first_file_is_read(model, tmp_path):
    path = save_digit(1, tmp_path / "1.png")
    for wrong in ({"top": 0}, {"batch_size": 0}, {"threads": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            predict_files(model, [path], **wrong)
    with pytest.raises(ConfigError, match="pretrained_cfg"):
        predict_files(nn.Linear(1, 1), [path])
    with pytest.raises(ConfigError, match="in_chans=4"):
        predict_files(moezoo.create_model("entity_moe/test_vit", in_chans=4), [path])
    with pytest.raises(ConfigError, match="num_classes=0"):
        predict_files(moezoo.create_model("entity_moe/test_vit", num_classes=0), [path])
    with pytest.raises(InputError, match="10 classes, and 2 labels"):
        list(predict_files(model, [path], label_names=["a", "b"]))
