"""``features_only`` over different kinds of backbones."""

import pytest
import timm
import torch

import moezoo
from moezoo.backbones.feature_info import measured_info
from moezoo.backbones.features import FeatureModel
from moezoo.errors import ConfigError

SLIM = {"num_experts": 2, "num_experts_shared": 1, "expert_dim": 8, "mlp_ratio": 0.1, "num_classes": 3}
ARCHS = [
    "resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002", "densenet121",
    "test_byobnet", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "hiera_tiny_224", "deit_tiny_patch16_224",
    "levit_128s", "edgenext_xx_small", "mixer_s32_224",
]  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_are_nchw_as_feature_info_says_under_the_classifiers_keys(arch):
    with torch.device("meta"):
        classifier = moezoo.create_model(f"entity_moe/{arch}", **SLIM)
        features = moezoo.create_model(f"entity_moe/{arch}", features_only=True, **SLIM).eval()
        _, height, width = features.pretrained_cfg["input_size"]
        maps = features(torch.empty(2, *features.pretrained_cfg["input_size"]))
    assert set(features.state_dict()) <= set(classifier.state_dict())
    assert any(".entity_moe." in key for key in features.state_dict())
    assert len(maps) == len(features.feature_info.channels())
    for m, channels, reduction in zip(
        maps, features.feature_info.channels(), features.feature_info.reduction(), strict=True
    ):
        assert m.shape == (2, channels, -(-height // reduction), -(-width // reduction))


STATED = {
    # what timm states wrongly: a reduction, and modules that do not exist or do not run
    "tresnet_m": (
        [64, 64, 128, 1024, 2048], [4, 4, 8, 16, 32],
        ["body.conv1", "body.layer1", "body.layer2", "body.layer3", "body.layer4"],
    ),
    "mvitv2_tiny": ([96, 192, 384, 768], [4, 8, 16, 32], [f"stages.{i}" for i in range(4)]),
    "twins_svt_small": ([64, 128, 256, 512], [4, 8, 16, 32], ["blocks.0.1", "blocks.1.1", "blocks.2.9", "blocks.3.3"]),
    "hrnet_w18_small": (
        [64, 128, 256, 512, 1024], [2, 4, 8, 16, 32], ["act1", "incre_modules.0", "stage2", "stage3", "stage4"]
    ),
    # what is right stays, also where nothing is padded and 299 rows become 8
    "inception_v3": (
        [64, 192, 288, 768, 2048], [2, 4, 8, 16, 32],
        ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("arch", STATED)
def test_feature_info_is_what_the_model_does(arch):
    with torch.device("meta"):
        features = moezoo.create_model(f"entity_moe/{arch}", features_only=True, **SLIM).eval()
        size = features.pretrained_cfg["input_size"]
        maps = features(torch.empty(2, *size))
    info = features.feature_info
    assert (info.channels(), info.reduction(), info.module_name()) == STATED[arch]
    assert [m.shape[1] for m in maps] == info.channels()
    for m, reduction in zip(maps, info.reduction(), strict=True):
        assert size[1] / reduction / 1.2 < m.shape[2] <= size[1] / reduction + 1


def test_a_model_that_reads_its_grid_off_values_states_its_maps_too():
    with torch.device("meta"):
        model = timm.create_model("gemma4_vit_167m")
    info = measured_info(model, model.feature_info)
    assert [(e["module"], e["num_chs"], e["reduction"]) for e in info[:2]] == [
        ("encoder.blocks.0", 768, 16),
        ("encoder.blocks.1", 768, 16),
    ]


def test_measuring_leaves_the_model_as_it_was():
    model = timm.create_model("test_resnet", num_classes=3).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = [dict(e) for e in model.feature_info]
    measured_info(model, model.feature_info)
    assert model.training
    assert [dict(e) for e in model.feature_info] == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_whose_features_cannot_be_had_is_refused(monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError("not for this one")

    model = timm.create_model("test_resnet", num_classes=3)
    monkeypatch.setattr(type(model), "forward_intermediates", fail)
    with pytest.raises(ConfigError, match=r"features_only=True is not possible: ResNet.*not for this one"):
        FeatureModel(model)
    with pytest.raises(ConfigError, match="Linear has no intermediate features"):
        FeatureModel(torch.nn.Linear(2, 2))


def test_a_classifiers_weights_load_and_give_its_own_intermediate_maps():
    torch.manual_seed(0)
    classifier = moezoo.create_model("entity_moe/resnet18", **SLIM).eval()
    features = moezoo.create_model("entity_moe/resnet18", features_only=True, out_indices=[1, -1], **SLIM).eval()
    features.load_state_dict({k: v for k, v in classifier.state_dict().items() if k in features.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    want = classifier.forward_intermediates(images, indices=[1, 4], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(features(images), want, strict=True))
    assert features.feature_info.reduction() == [4, 32]


def test_an_early_stop_drops_what_comes_after():
    features = moezoo.create_model("entity_moe/resnet18.all", features_only=True, out_indices=[2], **SLIM).eval()
    assert not any(key.startswith(("layer3", "layer4", "fc")) for key in features.state_dict())
    assert [m.shape for m in features(torch.zeros(1, 3, 64, 64))] == [(1, 128, 8, 8)]


def test_a_plain_vit_gives_its_last_three_maps_by_default_and_n_with_an_int():
    make = lambda **kw: moezoo.create_model("entity_moe/test_vit2", features_only=True, img_size=32, **SLIM, **kw)  # noqa: E731
    assert make().out_indices == (5, 6, 7)
    assert make(out_indices=2).out_indices == (6, 7)


def test_aux_loss_and_recording_work_through_features():
    features = moezoo.create_model("entity_moe/test_vit2", features_only=True, img_size=32, **SLIM)
    with moezoo.record_routing(features) as records:
        features(torch.randn(2, 3, 32, 32))
    assert len(records) == 1
    first = moezoo.aux_loss(features)
    features(torch.randn(2, 3, 32, 32))
    assert first > 0
    assert moezoo.aux_loss(features) != first  # the last forward's alone


@pytest.mark.parametrize(
    ("out_indices", "words"),
    [
        ([5], "not in -5 to 4"),
        ([-6], "not in -5 to 4"),
        ([0, 0], "twice"),
        ([0, -5], "twice"),
        ([], "list of stage indices"),
        ([True], "not in"),
        (["0"], "not in"),
        ("all", "list of stage indices"),
        (0, "how many"),
        (6, "how many"),
        (1.5, "list"),
    ],
)  # fmt: skip
def test_out_indices_are_checked(out_indices, words):
    with pytest.raises(ConfigError, match=words), torch.device("meta"):
        moezoo.create_model("entity_moe/resnet18", features_only=True, out_indices=out_indices)


def test_out_indices_without_features_only_are_refused():
    with pytest.raises(ConfigError, match="features_only"):
        moezoo.create_model("entity_moe/test_vit2", out_indices=[1])
