"""``features_only`` and intermediates of adapted backbones, with the figures timm's users know."""

import pytest
import torch
from slim import SLIM

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError

STRIDES = [2, 4, 8, 16, 32]
FIGURES = {
    "resnest26d": ([2, 3], [512, 1024], [8, 16]),
    "resnet50": (None, [64, 256, 512, 1024, 2048], STRIDES),
    "mobilenetv3_large_100": (None, [16, 24, 40, 112, 960], STRIDES),
    "regnety_032": (None, [32, 72, 216, 576, 1512], STRIDES),
    "swin_tiny": (None, [96, 192, 384, 768], STRIDES[1:]),
    "convnext_tiny": (None, [96, 192, 384, 768], STRIDES[1:]),
}
"""Indices asked for, channels and reductions."""


@pytest.mark.parametrize("arch", FIGURES)
def test_the_known_maps_come_out_as_nchw(arch):
    out_indices, channels, reductions = FIGURES[arch]
    with torch.device("meta"):
        model = moezoo.create_model(
            f"entity_moe/{arch}", features_only=True, out_indices=out_indices, num_experts=2, expert_dim=8
        ).eval()
        maps = model(torch.empty(2, 3, 224, 224))
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == reductions
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 224 // r, 224 // r) for c, r in zip(channels, reductions, strict=True)
    ]


def test_what_no_map_needs_is_pruned():
    with torch.device("meta"):
        whole = moezoo.create_model("entity_moe/convnext_tiny", **SLIM)
        early = moezoo.create_model("entity_moe/convnext_tiny", features_only=True, out_indices=(0, 1, 2), **SLIM)
    kept = set(early.state_dict())
    assert kept < set(whole.state_dict())
    assert {key.split(".")[0] for key in kept} == {"stem", "stages"}
    assert not any(key.startswith("stages.3") for key in kept)


def test_every_convnext_stage_is_an_index():
    with torch.device("meta"):
        make = lambda **kw: moezoo.create_model("entity_moe/test_convnext", features_only=True, **SLIM, **kw)  # noqa: E731
        assert make().out_indices == make(out_indices=(0, 1, 2, 3)).out_indices == (0, 1, 2, 3)
        with pytest.raises(ConfigError, match=r"4 is not in -4 to 3"):
            make(out_indices=(0, 4))


@pytest.mark.parametrize(("arch", "blocks"), [("test_vit2", True), ("test_convnext", False), ("test_resnet", False)])
def test_intermediates_are_the_adapters_output(arch, blocks):
    torch.manual_seed(0)
    model = moezoo.create_model(f"entity_moe/{arch}", img_size=64, **SLIM).eval()
    images = torch.randn(2, 3, 64, 64)
    ask = lambda: model.forward_intermediates(images, indices=[-1], intermediates_only=True)[0]  # noqa: E731
    with torch.no_grad():
        before = ask()
        last = list(adapters_of(model).values())[-1]
        torch.nn.init.normal_(last.ffn.fc2.weight)
        assert before.ndim == 4
        assert not torch.equal(ask(), before)
        final, maps = model.forward_intermediates(images, indices=2)
        assert len(maps) == 2
        assert torch.equal(maps[-1], ask())
        assert torch.equal(final, model.forward_features(images))
        if blocks:
            tokens = model.get_intermediate_layers(images, n=1)[0]
            assert torch.equal(tokens.transpose(1, 2).reshape(maps[-1].shape), maps[-1])


def test_a_pruned_model_keeps_the_adapters_of_what_is_left():
    model = moezoo.create_model("entity_moe/test_vit2.all", img_size=64, **SLIM).eval()
    images = torch.randn(1, 3, 64, 64)
    want = model.forward_intermediates(images, indices=[2], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([2]) == [2]
    assert list(adapters_of(model)) == [f"blocks.{i}.entity_moe" for i in range(3)]
    assert torch.equal(model.forward_intermediates(images, indices=[0], intermediates_only=True)[0], want) is False
    assert torch.equal(model.forward_intermediates(images, indices=[2], intermediates_only=True)[0], want)


@pytest.mark.parametrize("arch", ["test_vit2", "test_resnet"])
def test_features_checkpoint_too(arch):
    grads = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = moezoo.create_model(f"entity_moe/{arch}", features_only=True, img_size=64, dropout=0.0, **SLIM)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
        grads.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-4, atol=1e-6, msg=key)
