"""``create_model`` and what its models answer, in timm's words, on three kinds of backbones."""

import pytest
import timm
import timm.optim
import torch
from PIL import Image
from slim import SLIM
from timm.models._manipulate import group_parameters

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError, InjectionError, InputError

ARCHS = ["test_vit2", "test_convnext", "test_resnet"]
each = pytest.mark.parametrize("arch", ARCHS)


def make(arch, **kwargs):
    """A small model whose adapters do something."""
    torch.manual_seed(0)
    kwargs = {"img_size": 64, "num_classes": 5, **SLIM, **kwargs}
    model = moezoo.create_model(f"entity_moe/{arch}", **kwargs).eval()
    for adapter in adapters_of(model).values():
        torch.nn.init.normal_(adapter.ffn.fc2.weight, std=0.1)
    return model


def images(side=64, batch=2):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@each
def test_classes_and_channels_are_as_asked(arch):
    model = make(arch, num_classes=7, in_chans=1)
    assert model(images()[:1, :1]).shape == (1, 7)
    assert model.num_classes == 7


def test_none_means_the_default():
    none = moezoo.create_model("entity_moe/test_vit2", drop_rate=None, global_pool=None, expert_k=None)
    assert none.moezoo_config == moezoo.model_config("entity_moe/test_vit2")


def test_an_unknown_argument_names_the_nearest_field():
    with pytest.raises(
        ConfigError, match=r"entity_moe/test_vit2: unknown field 'num_class'. Did you mean: num_classes"
    ):
        moezoo.create_model("entity_moe/test_vit2", num_class=5)
    with pytest.raises(ConfigError, match="'test_vit2' does not take these arguments: unknown argument 'embed_dims'"):
        moezoo.create_model("entity_moe/test_vit2", backbone_args={"embed_dims": 5})


@each
def test_a_saved_folder_is_a_name_and_holds_no_pickle(arch, tmp_path):
    model = make(arch)
    moezoo.save_pretrained(model, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images()), model(images()))


@each
def test_head_is_apart_and_can_be_reset(arch):
    model = make(arch)
    features = model.forward_features(images())
    assert torch.equal(model.forward_head(features), model(images()))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3)
    assert model.get_classifier().out_features == 3
    model.reset_classifier(0)
    assert model(images()).shape == (2, model.num_features)
    model.reset_classifier(4, global_pool="max")
    assert model(images()).shape == (2, 4)


@each
def test_sizes_are_as_asked(arch):
    assert make(arch, img_size=96)(images(96)).shape == (2, 5)
    assert make(arch, img_size=(64, 96))(torch.randn(2, 3, 64, 96)).shape == (2, 5)


def test_a_convolutional_network_takes_any_size_and_a_plain_vit_the_one_it_was_built_for():
    for arch in ("test_convnext", "test_resnet"):
        assert make(arch)(images(96)).shape == (2, 5)
    model = make("vit_tiny", backbone_args={"depth": 1})
    with pytest.raises(InputError, match=r"\(batch, 3, 64, 64\).*img_size=\(96, 96\) builds a model for these"):
        model(images(96))
    model.set_input_size(img_size=96)
    assert model(images(96)).shape == (2, 5)
    with pytest.raises(InjectionError, match=r"\(3, 65, 65\).*divisible by patch size"):
        make("test_vit2", img_size=65)


def test_a_vit_takes_any_size_when_asked_to():
    dynamic = make("vit_tiny", backbone_args={"depth": 1, "dynamic_img_size": True})
    fixed = make("vit_tiny", backbone_args={"depth": 1})
    assert torch.equal(dynamic(images()), fixed(images()))
    assert dynamic(torch.randn(1, 3, 96, 64)).shape == (1, 5)


def test_a_swin_takes_any_size_when_asked_to():
    small = {"depths": [1, 1], "embed_dim": 12, "num_heads": [1, 1], "window_size": 4}
    with pytest.raises(InputError, match="wrong size"):
        make("swin_tiny", backbone_args=small)(images(96))
    loose = make("swin_tiny", backbone_args={**small, "strict_img_size": False})
    assert loose(images(96)).shape == (2, 5)


@each
def test_an_adapter_learns_at_the_rate_of_the_block_it_follows(arch):
    model = make(arch, inject_layers="all")
    layer = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert layer.keys() == dict(model.named_parameters()).keys()
    for path in adapters_of(model):
        block = path.rpartition(".")[0]
        own = {layer[key] for key in layer if key.startswith(f"{path}.")}
        host = {layer[key] for key in layer if key.startswith(f"{block}.") and not key.startswith(f"{path}.")}
        assert len(own) == 1
        assert own == host

    groups = timm.optim.param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(layer)
    assert len({group["lr_scale"] for group in groups}) == len(set(layer.values()))


def test_no_weight_decay_is_the_backbones():
    model = make("test_vit2")
    assert {"pos_embed", "cls_token"} <= model.no_weight_decay()
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert id(model.pos_embed) not in decayed
    assert id(model.blocks[0].attn.qkv.weight) in decayed


@each
def test_checkpointing_gives_the_same_loss_and_gradients(arch):
    grads = []
    for enable in (False, True):
        model = make(arch, dropout=0.0)
        model.set_grad_checkpointing(enable)
        model.train()
        (model(images()).square().mean() + moezoo.aux_loss(model)).backward()
        grads.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.filterwarnings("ignore")
@each
def test_traced_and_symbolic_graphs_give_the_same_logits(arch):
    model = make(arch)
    want = model(images())
    with torch.no_grad():
        traced = torch.jit.trace(model, images(), check_trace=False)
    torch.testing.assert_close(traced(images()), want, rtol=1e-5, atol=1e-5)
    others = 3 * torch.randn_like(images())  # which may meet experts that tracing did not
    torch.testing.assert_close(traced(others), model(others), rtol=1e-4, atol=1e-4)
    head = "head" if arch == "test_vit2" else "head.fc" if arch == "test_convnext" else "fc"
    graph = timm.models.GraphExtractNet(model, [head])
    assert torch.equal(graph(images()), want)


def test_on_the_meta_device_nothing_is_allocated():
    with torch.device("meta"):
        model = moezoo.create_model("entity_moe/vit_small", **SLIM)
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["resnet50", "test_vit2"])
def test_preprocessing_is_resolved_from_the_model(arch):
    with torch.device("meta"):
        model = moezoo.create_model(f"entity_moe/{arch}", **SLIM)
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    assert transform(Image.new("RGB", (300, 260))).shape == data["input_size"]
    if arch == "resnet50":
        resize, crop = transform.transforms[:2]
        assert (resize.size, crop.size) == (235, (224, 224))
        assert resize.interpolation.value == "bicubic"
        assert (data["mean"], data["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_preprocessing_follows_the_size_and_channels_asked_for():
    model = make("test_resnet", img_size=96, in_chans=1)
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (1, 96, 96)
    assert len(data["mean"]) == len(data["std"]) == 1


def test_the_stated_size_is_the_one_the_model_takes():
    """timm states 256 for a model that it builds for 336."""
    with torch.device("meta"):
        model = moezoo.create_model("entity_moe/vitamin_xlarge_336", **SLIM).eval()
    assert model.pretrained_cfg["input_size"] == (3, 336, 336)
