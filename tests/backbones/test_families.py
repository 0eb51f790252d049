"""Injection on real tensors, one architecture for each of many timm families."""

import pytest
import timm
import torch

from moezoo import aux_loss, inject_moe
from moezoo.backbones.inject import adapters_of

CNN = [
    "resnet18",
    "resnetv2_18",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "regnetx_002",
    "densenet121",
    "vgg11",
    "ghostnet_050",
    "rexnet_100",
    "nf_resnet26",
    "repvgg_a0",
    "cs3darknet_focus_s",
    "vovnet39a",
    "hgnetv2_b0",
    "starnet_s1",
    "fastvit_t8",
    "repvit_m0_9",
    "selecsls42",
    "dla46_c",
    "test_byobnet",
]
HIERARCHICAL = [
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "pvt_v2_b0",
    "nest_tiny",
    "hiera_tiny_224",
    "twins_svt_small",
    "davit_tiny",
    "focalnet_tiny_srf",
    "poolformer_s12",
    "mvitv2_tiny",
    "tiny_vit_5m_224",
]
PLAIN = [
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "convit_tiny",
    "tnt_s_legacy_patch16_224",
    "vit_relpos_small_patch16_224",
]
MIXER = ["mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", "convmixer_768_32"]
HYBRID = [
    "vit_tiny_r_s16_p8_224",
    "coatnet_pico_rw_224",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "levit_128s",
    "efficientformer_l1",
    "efficientvit_b0",
    "visformer_tiny",
    "test_vit",
    "pit_ti_224",
    "crossvit_tiny_240",
]


@pytest.mark.parametrize("arch", [*CNN, *HIERARCHICAL, *PLAIN, *MIXER, *HYBRID])
def test_injected_backbone_is_exact_at_first_then_changed_once_per_adapter(arch):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=7).eval()
    small = (3, 96, 96) if arch in (*CNN, "convmixer_768_32") else None  # convolutions take any size
    images = torch.randn(1, *(small or model.pretrained_cfg["input_size"]))
    keys = list(model.state_dict())
    with torch.no_grad():
        before, features = model(images), _tensor(model.forward_features(images))

    assert (
        inject_moe(model, None, input_size=small, num_experts=2, num_experts_shared=1, mlp_ratio=0.25, dropout=0.0)
        is model
    )
    adapters = adapters_of(model)
    assert adapters
    assert [k for k in model.state_dict() if ".entity_moe." not in k] == keys

    calls = dict.fromkeys(adapters, 0)
    for name, adapter in adapters.items():
        adapter.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    with torch.no_grad():
        assert torch.equal(model(images), before)
    assert set(calls.values()) == {1}

    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.ffn.fc2.weight, std=1.0)
    with torch.no_grad():
        changed = _tensor(model.forward_features(images))
    assert changed.shape == features.shape
    assert not torch.allclose(changed, features, rtol=1e-4, atol=0)

    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # some heads start at zero and would let no gradient through
    model(images).square().sum().backward()
    for name, adapter in adapters.items():
        assert adapter.ffn.fc2.weight.grad is not None, name
        assert adapter.ffn.fc2.weight.grad.abs().sum() > 0, name
    assert aux_loss(model) == 0  # evaluation mode


def test_the_list_covers_thirty_families():
    modules = {timm.model_entrypoint(a).__module__ for a in [*CNN, *HIERARCHICAL, *PLAIN, *MIXER, *HYBRID]}
    assert len(modules) >= 30


def _tensor(features):
    while isinstance(features, (tuple, list)):
        features = features[-1]
    return features
