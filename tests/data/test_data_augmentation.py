"""Options: read off signatures, decoded strictly, and each of them has an effect."""

import random
from dataclasses import dataclass

import pytest
import timm
import torch
from dataset_folders import image_folder
from PIL import Image

from moezoo.config import STRICT, option
from moezoo.data import (
    Augmentation,
    ImageInput,
    Splits,
    input_options,
    load_dataset,
    register_dataset,
    resolved_options,
)
from moezoo.data.signature import options_of
from moezoo.data.transforms import Prepare
from moezoo.errors import ConfigError
from moezoo.parts import datasets


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


def image():
    pixels = torch.arange(40 * 48 * 3).reshape(40, 48, 3) % 251
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def reads(augmentation, count=4, size=(3, 32, 32)):
    torch.manual_seed(0)
    random.seed(0)
    prepare = Prepare(ImageInput(input_size=size), augmentation)
    return torch.stack([prepare(image()) for _ in range(count)])


def test_each_augmentation_changes_what_is_read():
    whole = {"scale": (1.0, 1.0), "ratio": (1.2, 1.2), "hflip": 0.0}
    still = reads(Augmentation(**whole))
    assert torch.equal(still[0], still[1])
    for change in (
        {"scale": (0.3, 0.5)},
        {"ratio": (0.5, 0.6)},
        {"hflip": 1.0},
        {"color_jitter": 0.5},
        {"auto_augment": "rand-m9-mstd0.5"},
        {"auto_augment": "3a"},
        {"auto_augment": "3a", "color_jitter": 0.5},
        {"re_prob": 1.0},
    ):
        assert not torch.allclose(reads(Augmentation(**{**whole, **change})), still, atol=0.02), change
    mirrored = reads(Augmentation(**{**whole, "hflip": 1.0}))
    assert torch.allclose(mirrored[0].flip(-1), still[0], atol=1e-5)
    off = reads(Augmentation(augment=False, re_prob=1.0))
    assert torch.equal(off[0], Prepare(ImageInput(input_size=(3, 32, 32)))(image()))
    grey = reads(Augmentation(auto_augment="rand-m9", re_prob=1.0), size=(1, 32, 32))
    assert grey.shape == (4, 1, 32, 32)


def test_evaluation_images_are_prepared_as_timm_does_for_the_model(root):
    model = timm.create_model("test_vit", num_classes=2)
    options = input_options(model, "image_folder")
    half = (0.5, 0.5, 0.5)
    size = {"input_size": (3, 160, 160), "mean": half, "std": half}
    assert options == {**size, "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    splits = load_dataset("image_folder", root=root, **options)
    reference = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with Image.open(splits.test.describe(3)) as stored:
        assert torch.equal(splits.test[3][0], reference(stored.convert("RGB")))
    assert set(input_options(model)) == {"input_size", "mean", "std"}
    assert set(input_options(model, "digits")) == {"input_size", "mean", "std"}
    assert set(input_options(model, "market1501")) == {"input_size", "mean", "std", "interpolation"}
    cut = load_dataset("image_folder", root=root, **{**options, "crop_pct": 0.5})
    other = load_dataset("image_folder", root=root, **{**options, "interpolation": "nearest"})
    assert not torch.equal(cut.test[3][0], splits.test[3][0])
    assert not torch.equal(other.test[3][0], splits.test[3][0])
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": 1.0, "crop_mode": "squash"}  # as some of timm's are
    whole = load_dataset("image_folder", root=root, **input_options(model, "image_folder"))
    reference = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with Image.open(whole.test.describe(3)) as stored:
        assert torch.equal(whole.test[3][0], reference(stored.convert("RGB")))
    assert not torch.equal(whole.test[3][0], load_dataset("image_folder", root=root, **size).test[3][0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"re_porb": 0.1}, "Did you mean: re_prob"),
        ({"re_prob": 1.5}, "re_prob=1.5 is not allowed"),
        ({"re_prob": "0.5"}, "re_prob='0.5' is not allowed"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 1.1)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"auto_augment": "randy"}, "auto_augment='randy' is not a policy of timm's"),
        ({"auto_augment": "rand-m9", "color_jitter": 0.2}, "color_jitter=0.2 is not allowed beside auto_augment"),
        ({"interpolation": "bicubik"}, "Did you mean: bicubic"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"input_size": (2, 8, 8)}, "input_size"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"split_seed": -1}, "split_seed"),
    ],
)
def test_a_bad_option_is_named(root, options, says):
    with pytest.raises(ConfigError, match=says):
        load_dataset("image_folder", root=root, **options)


def test_options_are_written_out_with_their_defaults(tmp_path):
    filled = resolved_options("image_folder", {"root": tmp_path, "re_prob": 0.5, "scale": (0.2, 1.0), "mean": [0.1]})
    assert filled == {
        "val_fraction": 0.1,
        "split_seed": 0,
        "test_fraction": 0.2,
        "augment": True,
        "ratio": [0.75, 1.3333],
        "hflip": 0.5,
        "color_jitter": 0.0,
        "auto_augment": None,
        "root": str(tmp_path),
        "re_prob": 0.5,
        "scale": [0.2, 1.0],
        "mean": [0.1],
    }
    with pytest.raises(ConfigError, match="needs root="):
        resolved_options("image_folder", {})


def test_a_function_may_group_its_options(monkeypatch):
    monkeypatch.setattr(datasets, "_items", dict(datasets._items))

    @dataclass(frozen=True)
    class Look:
        __pydantic_config__ = STRICT

        side: int = option(4, "how large")
        dark: bool = option(False, "how dark")

    wide, seen = Look(side=8), []

    @register_dataset("grouped")
    def grouped(*, count: int, look=None, plain: Look = wide) -> Splits:
        """Some.

        Args:
            count: How many
                there are.
            look: Anything.
        """
        seen.append((count, look, plain))
        return load_dataset("digits")

    load_dataset("grouped", count=2, dark=True)
    load_dataset("grouped", count=3, look=(1,), side=5)
    assert seen == [(2, None, Look(8, True)), (3, (1,), Look(5, False))]
    with pytest.raises(ConfigError, match="data set 'grouped' needs count="):
        load_dataset("grouped", side=5)
    with pytest.raises(ConfigError, match=r"unknown field 'plain'"):
        load_dataset("grouped", count=1, plain={})
    helps = {o.name: (o.default, o.help) for o in options_of(grouped)}
    assert helps["count"][1] == "How many there are."
    assert helps["look"] == (None, "Anything.")
    assert helps["side"] == (8, "how large")
