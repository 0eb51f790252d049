"""Pretrained weights of a backbone: all of them or an error, whatever the number of classes."""

import logging
import time

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from slim import SLIM

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.transfer import copy_backbone
from moezoo.errors import ConfigError, WeightsMismatch, WeightsUnavailable

CLASSES = (None, 7, 0)
"""The published number of classes, another one, and no classifier."""
KINDS = {
    "test_resnet": {},
    "test_vit2": {},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1], "embed_dim": 24, "num_heads": [1, 2]},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": [1, 1, 1, 1]},
    "vit_tiny_patch16_224": {"depth": 2, "fc_norm": False},
    "xcit_nano_12_p16_224": {"depth": 2},
}
"""Kinds of backbones and of heads, some made shallow."""
LARGER = [("resnet18", 7), ("resmlp_12_224", 7), ("efficientvit_m0", 0)]
POOLING = {"vit_tiny_patch16_224": "avg"}
HEADS = ("head.", "fc.", "classifier.", "head_dist.")


def without(*keys):
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def create(arch, folder, **kwargs):
    return moezoo.create_model(f"entity_moe/{arch}", pretrained=True, cache_dir=folder, **SLIM, **kwargs).eval()


@pytest.mark.parametrize("num_classes", CLASSES[1:])
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "layer4.0.bn2.running_var"])
def test_a_missing_backbone_weight_is_an_error_for_any_number_of_classes(publish, tmp_path, key, num_classes):
    publish("test_resnet", without(key))
    with pytest.raises(WeightsMismatch, match=key.replace(".", r"\.")):
        create("test_resnet", tmp_path, num_classes=num_classes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("fc.weight"), "fc.weight"),
        (lambda state: {**state, "layer5.weight": torch.zeros(1)}, "Unexpected.*layer5"),
        (lambda state: {**state, "layer2.0.bn1.weight": torch.zeros(3)}, "size mismatch for layer2.0.bn1.weight"),
    ],
)
def test_another_file_than_the_backbones_is_an_error(publish, tmp_path, change, words):
    publish("test_resnet", change)
    with pytest.raises(WeightsMismatch, match=rf"(?s)test_resnet.*{words}"):
        create("test_resnet", tmp_path)


def test_an_architecture_timm_reads_leniently_is_read_strictly(publish, tmp_path):
    publish("dla46_c", without("level3.tree1.tree1.conv1.weight"))
    with pytest.raises(WeightsMismatch, match=r"dla46_c.*missing level3\.tree1\.tree1\.conv1\.weight$"):
        create("dla46_c", tmp_path)


def test_weights_without_classes_may_come_without_the_rest_of_the_head_but_with_all_else(publish, tmp_path):
    headless = without("head.norm.weight", "head.norm.bias")
    published = publish("convnextv2_atto.fcmae", headless)
    model = create("convnextv2_atto", tmp_path, num_classes=7, backbone_tag="fcmae")
    assert torch.equal(model.stem[0].weight, published.stem[0].weight)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    publish("convnextv2_atto.fcmae", lambda state: without("stem.0.weight")(headless(state)))
    with pytest.raises(WeightsMismatch, match=r"missing stem\.0\.weight$"):
        create("convnextv2_atto", tmp_path / "other", num_classes=7, backbone_tag="fcmae")


def test_pooling_that_moves_the_norm_is_an_error_that_says_what_to_do(publish, tmp_path):
    published = publish("vit_tiny_patch16_224", depth=1)
    args = {"depth": 1}
    for num_classes in (1000, 7):
        with pytest.raises(WeightsMismatch, match=r"(?s)fc_norm\.weight.*backbone_args=\{'fc_norm': False\}"):
            create("vit_tiny_patch16_224", tmp_path, global_pool="avg", num_classes=num_classes, backbone_args=args)
    args["fc_norm"] = False
    model = create("vit_tiny_patch16_224", tmp_path, global_pool="avg", backbone_args=args)
    assert torch.equal(model.norm.weight, published.norm.weight)


@pytest.mark.parametrize(("arch", "num_classes"), [*((kind, n) for kind in KINDS for n in CLASSES), *LARGER])
def test_everything_but_the_classifier_arrives(publish, tmp_path, caplog, arch, num_classes):
    caplog.set_level(logging.INFO, "moezoo")
    args = KINDS.get(arch, {})
    published = publish(arch, **args)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    model = create(arch, tmp_path, global_pool=POOLING.get(arch), backbone_args=args, **classes)

    source = published.state_dict()
    named = published.pretrained_cfg["classifier"]
    classifiers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    added = tuple(f"{path}." for path in adapters_of(model))
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(added)}
    fresh = {key for key in state if num_classes == 7 and key.startswith(classifiers)}
    assert all(torch.equal(value, source[key]) for key, value in state.items() if key not in fresh)
    dropped = set(source) - set(state)
    assert all(key.startswith(HEADS) for key in dropped)
    assert bool(dropped) == (num_classes == 0)
    assert bool(fresh) == (num_classes == 7)
    told = f"{arch}: the weights are for 1000 classes; the classifier for 7 is fresh"
    assert (told in caplog.text) == (num_classes == 7)
    width = {None: 1000, 7: 7, 0: model.head_hidden_size}[num_classes]
    assert model(torch.randn(1, *model.pretrained_cfg["input_size"])).shape == (1, width)


def test_weights_without_classes_get_a_fresh_classifier(publish, tmp_path, caplog):
    caplog.set_level(logging.INFO, "moezoo")
    args = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    published = publish("vit_small_patch14_dinov2.lvd142m", img_size=28, **args)
    assert published.num_classes == 0
    made = {"img_size": 28, "backbone_args": args}
    model = create("vit_small_patch14_dinov2", tmp_path, **made)
    assert torch.equal(model.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    assert "the weights are for 0 classes; the classifier for 1000 is fresh" in caplog.text
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(model.forward_features(images), published.forward_features(images))
    assert torch.equal(create("vit_small_patch14_dinov2", tmp_path, num_classes=0, **made)(images), published(images))


def test_a_refused_file_leaves_the_model_as_it_was(publish):
    model = moezoo.create_model("entity_moe/test_vit2", **SLIM)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    donor = timm.create_model("test_vit2", num_classes=1000)
    donor.blocks[3].mlp.fc1 = torch.nn.Linear(64, 8)
    with pytest.raises(WeightsMismatch, match=r"another shape blocks\.3\.mlp\.fc1\.bias, blocks\.3\.mlp\.fc1\.weight"):
        copy_backbone(model, donor, ())
    donor.extra = torch.nn.Linear(1, 1)
    del donor.blocks[0].norm1
    with pytest.raises(WeightsMismatch, match=r"missing blocks\.0\.norm1\.weight.*unexpected extra\.weight"):
        copy_backbone(model, donor, ("blocks.3.",))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_files_with_the_authors_own_key_names_load(publish, tmp_path):
    def authors(state):
        """The names of the architecture's first publication."""
        words = [("stem.", "downsample_layers.0."), ("conv_dw", "dwconv"), ("mlp.fc", "pwconv"), ("head.fc", "head")]
        words += [(f"stages.{i}.downsample.", f"downsample_layers.{i}.") for i in range(1, 4)]
        words += [(f"stages.{i}.blocks.", f"stages.{i}.") for i in range(4)]
        renamed = {}
        for key, value in state.items():
            key = key.replace("head.norm", "norm")
            for ours, theirs in words:
                key = key.replace(ours, theirs)
            renamed[key] = value
        return renamed

    published = publish("convnext_atto", authors)
    model, images = create("convnext_atto", tmp_path), torch.randn(1, 3, 64, 64)
    assert torch.equal(model(images), published(images))


def test_a_backbone_loaded_by_timm_in_any_way_is_taken_as_it_is():
    """An overlay of timm's pretrained configuration, then adapters."""
    state = timm.create_model("test_vit2").state_dict()
    model = timm.create_model("test_vit2", pretrained=True, pretrained_cfg_overlay={"state_dict": state}).eval()
    images = torch.randn(1, 3, 64, 64)
    before = timm.create_model("test_vit2").eval()
    before.load_state_dict(state)
    assert moezoo.inject_moe(model, "last", **SLIM) is model
    images = torch.randn(1, *model.pretrained_cfg["input_size"])
    assert torch.equal(model(images), before(images))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"checkpoint_path": "weights.pth"}, "checkpoint_path"),
        ({"pretrained_cfg_overlay": {"file": "weights.pth"}}, "pretrained_cfg_overlay"),
        ({"features_only": True}, "features_only"),
        ({"num_classes": 5}, "num_classes is a field of its own"),
    ],
)
def test_arguments_of_the_backbone_neither_read_files_nor_repeat_fields(args, words):
    with pytest.raises(ConfigError, match=rf"backbone_args=.*{words}"):
        moezoo.create_model("entity_moe/test_vit2", backbone_args=args)


def test_a_checkpoint_of_the_whole_model_loads_strictly(tmp_path):
    model = moezoo.create_model("entity_moe/test_convnext", **SLIM).eval()
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    again = moezoo.create_model("entity_moe/test_convnext", checkpoint_path=tmp_path / "whole.safetensors", **SLIM)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    state = model.state_dict()
    del state["stem.0.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsMismatch, match=r"stem\.0\.weight"):
        moezoo.create_model("entity_moe/test_convnext", checkpoint_path=tmp_path / "part.safetensors", **SLIM)


def test_offline_is_told_within_seconds_and_the_cache_serves(publish, tmp_path, monkeypatch, hub):
    published = publish("test_vit2")
    create("test_vit2", tmp_path)
    hub.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model, start = create("test_vit2", tmp_path), time.monotonic()
    assert torch.equal(model.head.weight, published.head.weight)
    with pytest.raises(WeightsUnavailable, match=r"HF_HUB_OFFLINE.*pretrained=False"):
        create("test_vit2", tmp_path / "empty")
    assert time.monotonic() - start < 5
    assert not hub.requests
