"""Injection into models that are not timm classifiers, and refusals that leave the model as it was."""

import copy
import threading

import pytest
import timm
import torch
from torch import nn

from moezoo import inject_moe
from moezoo.backbones.inject import adapters_of
from moezoo.errors import InjectionError

SLIM = {"num_experts": 2, "num_experts_shared": 1, "expert_dim": 8, "mlp_ratio": 0.25}


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1, self.down, self.enc2 = Residual(4), nn.Conv2d(4, 8, 2, 2), Residual(8)
        self.up, self.dec = nn.ConvTranspose2d(8, 4, 2, 2), Residual(4)

    def forward(self, x):
        skip = self.enc1(x)
        return self.dec(skip + self.up(self.enc2(self.down(skip))))


def hooks(model):
    return [len(m._forward_hooks) for m in model.modules()]


def changes(model, images):
    """Whether the injected adapters do nothing at first and something once they have weights."""

    def run():
        with torch.no_grad():
            return torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(model(images)) if t is not None])

    plain = copy.deepcopy(model)
    for module in plain.modules():
        module._forward_hooks.clear()
    with torch.no_grad():
        before = torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(plain(images)) if t is not None])
    same = torch.equal(run(), before)
    for adapter in adapters_of(model).values():
        nn.init.normal_(adapter.ffn.fc2.weight)
    return same, not torch.equal(run(), before)


@pytest.mark.parametrize(
    ("where", "paths", "listed"),
    [
        ("last", ["enc2"], [(1, 0)]),
        ("dec", ["dec"], ["dec"]),
        (["enc1", "dec"], ["enc1", "dec"], [(0, 0), "dec"]),
        ("d*", ["down", "dec"], ["down", "dec"]),
    ],
)
def test_a_pattern_may_name_any_module_that_runs_once(where, paths, listed):
    model = UNet().eval()
    inject_moe(model, where, input_size=(4, 16, 16), **SLIM)
    assert [path.removesuffix(".entity_moe") for path in adapters_of(model)] == paths
    assert model.entity_moe_config["inject_layers"] == listed
    assert changes(model, torch.randn(2, 4, 16, 16)) == (True, True)


def test_without_a_stack_of_blocks_patterns_still_choose():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InjectionError, match="no stack of blocks"):
        inject_moe(net, "last", input_size=(3, 16, 16))
    with pytest.raises(InjectionError, match="'5' matches no block"):
        inject_moe(net, "5", input_size=(3, 16, 16))
    inject_moe(net.eval(), "2", input_size=(3, 16, 16), **SLIM)
    assert changes(net, torch.randn(2, 3, 16, 16)) == (True, True)


def test_of_modules_inside_each_other_a_pattern_takes_the_outermost(tiny_vit):
    inject_moe(tiny_vit, "patch_embed*", **SLIM)
    assert list(adapters_of(tiny_vit)) == ["patch_embed.entity_moe"]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_timms_own_feature_extractors(name):
    size = {"img_size": 64} if name == "test_vit" else {}
    model = timm.create_model(name, features_only=True, **size).eval()
    inject_moe(model, "last", input_size=(3, 64, 64), **SLIM)
    assert changes(model, torch.randn(1, 3, 64, 64)) == (True, True)


def test_timms_fx_extractor_carries_the_adapter():
    from timm.models._features_fx import create_feature_extractor

    model = inject_moe(timm.create_model("test_resnet").eval(), "last", **SLIM)
    nn.init.normal_(next(iter(adapters_of(model).values())).ffn.fc2.weight)
    images = torch.randn(1, 3, 64, 64)
    got = create_feature_extractor(model, {"layer4": "map"})(images)["map"]
    want = model.forward_intermediates(images, indices=1, intermediates_only=True)[0]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["ViT", "ResNet", "Swin"])
def test_transformers_models(kind):
    transformers = pytest.importorskip("transformers")
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    args = {
        "ViT": {**vit, "image_size": 32, "patch_size": 8},
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
        "Swin": {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [1, 2],
            "window_size": 4,
        },
    }[kind]
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**args)).eval()
    inject_moe(model, "all", input_size=(3, 32, 32), **SLIM)
    assert len(adapters_of(model)) == {"ViT": 2, "ResNet": 3, "Swin": 3}[kind]
    places = {"ViT": [0, 1]}.get(kind, [(0, 0), (1, 0), (1, 1)])
    assert model.entity_moe_config["inject_layers"] == places
    images = torch.randn(2, 3, 32, 32)
    before = model(pixel_values=images, output_hidden_states=True).hidden_states[-1]
    nn.init.normal_(list(adapters_of(model).values())[-1].ffn.fc2.weight)
    assert not torch.equal(model(pixel_values=images, output_hidden_states=True).hidden_states[-1], before)


def test_blocks_of_a_nested_plain_backbone_are_listed_by_their_index():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = timm.create_model("test_vit", img_size=32, num_classes=3)

        def forward(self, x):
            return self.backbone(x)

    model = inject_moe(Wrapped(), [-1], input_size=(3, 32, 32), **SLIM)
    assert model.entity_moe_config["inject_layers"] == [5]


def test_what_cannot_be_injected_is_refused_in_words():
    with pytest.raises(InjectionError, match=r"'vit' is not allowed: inject_moe takes a torch\.nn\.Module"):
        inject_moe("vit")
    model = timm.create_model("test_vit", img_size=32).eval()
    for closed in (torch.compile(model, backend="eager"), torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))):
        with pytest.raises(InjectionError, match="before it was compiled or scripted"):
            inject_moe(closed, input_size=(3, 32, 32))
    model.lock = threading.Lock()
    with pytest.raises(InjectionError, match=r"could not be copied.*lock"):
        inject_moe(model)
    assert not adapters_of(model)


@pytest.mark.parametrize(
    ("where", "words"),
    [([0, 5], "already has an attribute 'entity_moe'"), (["blocks", -1], r"chooses 'blocks\.5' twice")],
)
def test_a_refusal_at_the_second_place_leaves_the_first_alone(tiny_vit, where, words):
    if where == [0, 5]:
        tiny_vit.blocks[5].entity_moe = "mine"
    keys, counts = list(tiny_vit.state_dict()), hooks(tiny_vit)
    with pytest.raises(InjectionError, match=words):
        inject_moe(tiny_vit, where, **SLIM)
    assert (list(tiny_vit.state_dict()), hooks(tiny_vit)) == (keys, counts)


def test_tracing_changes_no_state_mode_gradient_or_random_number():
    model = timm.create_model("test_resnet", drop_path_rate=0.1).train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    model.bn1.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads, modes = [p.grad for p in model.parameters()], [m.training for m in model.modules()]
    random = torch.get_rng_state()
    with pytest.raises(InjectionError, match="out of range"):
        inject_moe(model, 99)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))


def test_an_adapter_takes_device_and_dtype_of_its_block():
    model = timm.create_model("test_vit", img_size=32).bfloat16()
    model.blocks[1].double()
    with torch.device("meta"):  # a default device of the caller's own is not the model's
        inject_moe(model, [1, 5], **SLIM)
    first, last = adapters_of(model).values()
    assert {(p.device.type, p.dtype) for p in first.parameters()} == {("cpu", torch.float64)}
    assert {(p.device.type, p.dtype) for p in last.parameters()} == {("cpu", torch.bfloat16)}


def test_a_model_on_the_meta_device_keeps_it():
    with torch.device("meta"):
        model = timm.create_model("test_vit", img_size=32)
    inject_moe(model, **SLIM)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_injection_inside_inference_mode_finds_the_same_places(tiny_vit):
    with torch.inference_mode():
        inject_moe(tiny_vit, "last", **SLIM)
    assert list(adapters_of(tiny_vit)) == ["blocks.5.entity_moe"]
    assert not any(p.is_inference() for p in adapters_of(tiny_vit)["blocks.5.entity_moe"].parameters())
