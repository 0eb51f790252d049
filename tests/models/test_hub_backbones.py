"""``entity_moe/hf:user/repo``: transformers backbones by name, through the real client and a loopback Hub."""

import json
from pathlib import Path

import pytest
import torch
from transformers_models import MAKERS, SAM, STAGES, VIT

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError, InputError, UnknownModelError, WeightsMismatch, WeightsUnavailable

SLIM = {"num_experts": 2, "expert_dim": 8, "mlp_ratio": 0.25}
PROCESSOR = {
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
}


def hf():
    import transformers

    return transformers


def randomised(model):
    torch.manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def publish(hub, repo, model, folder, *, processor=None, shard_size="5GB", drop=()):
    """``model`` as ``save_pretrained`` writes it, on the loopback Hub."""
    model.save_pretrained(folder, max_shard_size=shard_size)
    files = {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name not in drop}
    if processor:
        files["preprocessor_config.json"] = json.dumps(processor).encode()
    hub.put(repo, files, lfs=tuple(name for name in files if name.endswith(".safetensors")))
    return model


@pytest.fixture
def vit(hub, tmp_path):
    """A ViT classifier of three classes, published."""
    config = hf().ViTConfig(**VIT, num_labels=3)
    return publish(
        hub, "someone/vit", randomised(hf().ViTForImageClassification(config)), tmp_path / "vit", processor=PROCESSOR
    )


def test_a_published_classifier_keeps_its_classes_and_its_logits_bit_for_bit(vit, tmp_path):
    model = moezoo.create_model("entity_moe/hf:someone/vit", pretrained=True, cache_dir=tmp_path / "cache").eval()
    images = torch.randn(2, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (2, 3)
    assert torch.equal(logits, vit(pixel_values=images).logits)
    assert model.weights_origin == "backbone:hf:someone/vit"
    assert model.moezoo_name == "entity_moe/hf:someone/vit"
    assert len(adapters_of(model)) == 1
    assert {k for k in model.state_dict() if ".entity_moe." not in k} == set(vit.state_dict())


def test_how_images_are_prepared_comes_with_the_model(vit, tmp_path):
    import timm

    model = moezoo.create_model("entity_moe/hf:someone/vit", cache_dir=tmp_path / "cache")
    data = timm.data.resolve_model_data_config(model)
    assert data["mean"] == (0.1, 0.2, 0.3)
    assert data["std"] == (0.4, 0.5, 0.6)
    assert data["input_size"] == (3, 32, 32)
    assert data["interpolation"] == "bicubic"
    assert data["crop_pct"] == 0.8


def test_other_classes_and_channels_are_adapted(vit, tmp_path, caplog):
    caplog.set_level("INFO", "moezoo")
    model = moezoo.create_model(
        "entity_moe/hf:someone/vit", pretrained=True, num_classes=5, in_chans=1, cache_dir=tmp_path / "cache"
    ).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    assert "5 classes is fresh" in caplog.text
    query = "vit.layers.0.attention.q_proj.weight"
    query = query if query in vit.state_dict() else next(k for k in vit.state_dict() if "query.weight" in k)
    assert torch.equal(model.state_dict()[query], vit.state_dict()[query])
    patch = next(k for k in vit.state_dict() if k.endswith("projection.weight"))
    torch.testing.assert_close(model.state_dict()[patch], vit.state_dict()[patch].sum(1, keepdim=True))
    features = moezoo.create_model(
        "entity_moe/hf:someone/vit", pretrained=True, num_classes=0, cache_dir=tmp_path / "cache"
    )
    assert features(torch.randn(2, 3, 32, 32)).shape == (2, 32)


def test_another_image_size_resamples_the_position_embeddings(vit, tmp_path):
    model = moezoo.create_model(
        "entity_moe/hf:someone/vit", pretrained=True, img_size=48, cache_dir=tmp_path / "cache"
    ).eval()
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 3)
    key = "vit.embeddings.position_embeddings"
    assert model.state_dict()[key].shape == (1, 37, 32)
    assert torch.equal(model.state_dict()[key][:, :1], vit.state_dict()[key][:, :1])
    with pytest.raises(InputError, match=r"48, 48.*got \(2, 3, 32, 32\)"):
        model(torch.randn(2, 3, 32, 32))


def test_a_stored_model_is_built_again_without_the_backbones_repository(vit, hub, tmp_path):
    model = moezoo.create_model("entity_moe/hf:someone/vit.all", pretrained=True, cache_dir=tmp_path / "cache", **SLIM)
    for adapter in adapters_of(model).values():
        torch.nn.init.normal_(adapter.ffn.fc2.weight)
    moezoo.save_pretrained(model.eval(), tmp_path / "saved")
    hub.reset()
    again = moezoo.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, cache_dir=tmp_path / "empty").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))
    assert again.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_a_warm_cache_serves_without_the_hub(vit, hub, tmp_path):
    first = moezoo.create_model("entity_moe/hf:someone/vit", pretrained=True, cache_dir=tmp_path / "cache").eval()
    hub.reset()
    second = moezoo.create_model("entity_moe/hf:someone/vit", pretrained=True, cache_dir=tmp_path / "cache").eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(images), second(images))


def test_features_are_maps_under_the_classifiers_keys(vit, tmp_path):
    features = moezoo.create_model(
        "entity_moe/hf:someone/vit", pretrained=True, features_only=True, out_indices=[0, -1], cache_dir=tmp_path / "c"
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = features(images)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 4), (2, 32, 4, 4)]
    assert features.feature_info.channels() == [32, 32]
    assert features.feature_info.reduction() == [8, 8]
    want = vit.vit(pixel_values=images, output_hidden_states=True).hidden_states[1]
    assert torch.equal(maps[0], want[:, 1:].transpose(1, 2).reshape(2, 32, 4, 4))
    assert {k for k in features.state_dict() if ".entity_moe." not in k} == {
        k for k in vit.state_dict() if not k.startswith("classifier.")
    }


def test_shards_are_read_and_a_missing_weight_is_told(hub, tmp_path):
    model = randomised(hf().ConvNextForImageClassification(hf().ConvNextConfig(**STAGES, image_size=64, num_labels=4)))
    publish(hub, "someone/shards", model, tmp_path / "shards", shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    loaded = moezoo.create_model("entity_moe/hf:someone/shards", pretrained=True, cache_dir=tmp_path / "c", **SLIM)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.eval()(images), model(images).logits)

    state = model.state_dict()
    lost = next(k for k in state if "layers.0" in k)
    model.save_pretrained(tmp_path / "cut", state_dict={k: v for k, v in state.items() if k != lost})
    hub.put("someone/cut", {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir()})
    with pytest.raises(WeightsMismatch, match="not whole"):
        moezoo.create_model("entity_moe/hf:someone/cut", pretrained=True, cache_dir=tmp_path / "c", num_classes=9)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("dinov2", lambda: hf().Dinov2Model(hf().Dinov2Config(**VIT))),
        ("mae", lambda: hf().ViTMAEModel(hf().ViTMAEConfig(**VIT))),
        ("dinov3", lambda: hf().DINOv3ViTModel(hf().DINOv3ViTConfig(**VIT, num_register_tokens=4))),
        ("siglip", lambda: hf().SiglipVisionModel(hf().SiglipVisionConfig(**VIT))),
        ("clip", lambda: hf().CLIPVisionModel(hf().CLIPVisionConfig(**VIT))),
        ("segformer", lambda: hf().SegformerModel(hf().SegformerConfig(**STAGES, num_attention_heads=[1, 1, 2, 4]))),
    ],
)
def test_a_backbone_without_classifier_gives_pooled_features_and_takes_a_fresh_head(kind, make, hub, tmp_path):
    plain = publish(hub, f"someone/{kind}", randomised(make()), tmp_path / kind)
    name, cache = f"entity_moe/hf:someone/{kind}", tmp_path / "cache"
    model = moezoo.create_model(name, pretrained=True, cache_dir=cache, **SLIM).eval()
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(2, *size)
    assert model.num_classes == 0
    assert model(images).shape == (2, model.num_features)
    if kind != "mae":  # its own encoder hides patches
        assert torch.equal(model.forward_features(images), plain(pixel_values=images).last_hidden_state)
    headed = moezoo.create_model(name, pretrained=True, num_classes=5, cache_dir=cache, **SLIM).train()
    headed(images).sum().backward()
    assert headed.get_classifier().weight.grad.abs().sum() > 0
    assert all(a.ffn.fc2.weight.grad.abs().sum() > 0 for a in adapters_of(headed).values())


def test_names_of_repositories_hold_dots_and_variants():
    assert moezoo.is_model("entity_moe/hf:facebook/dinov2-base")
    assert moezoo.model_config("entity_moe_hf:facebook/sam2.1-hiera-tiny").model_name == "hf:facebook/sam2.1-hiera-tiny"
    config = moezoo.model_config("entity_moe/hf:facebook/sam2.1-hiera-tiny.last_half")
    assert (config.model_name, config.inject_layers) == ("hf:facebook/sam2.1-hiera-tiny", "last_half")
    with pytest.raises(UnknownModelError):
        moezoo.model_config("entity_moe/hf:dinov2")


def test_unreachable_and_unknown_repositories_are_errors_that_say_what_to_do(hub, tmp_path):
    with pytest.raises(WeightsUnavailable, match="no such repository"):
        moezoo.create_model("entity_moe/hf:someone/nothing", cache_dir=tmp_path)
    hub.put("someone/timm", {"config.json": b'{"architecture": "resnet50"}'})
    with pytest.raises(ConfigError, match="model_type"):
        moezoo.create_model("entity_moe/hf:someone/timm", cache_dir=tmp_path)


def test_fields_that_mean_nothing_to_transformers_are_refused():
    args = {"model_type": "vit", **VIT}
    with pytest.raises(ConfigError, match="global_pool"):
        moezoo.create_model("entity_moe/hf:a/b", backbone_args=args, global_pool="avg")
    with pytest.raises(ConfigError, match="drop_path_rate"):
        moezoo.create_model("entity_moe/hf:a/b", backbone_args=args, drop_path_rate=0.1)
    with pytest.raises(ConfigError, match=r"model_type='vitt'.*Did you mean: vit"):
        moezoo.create_model("entity_moe/hf:a/b", backbone_args={**args, "model_type": "vitt"})
    dropped = {"model_type": "dinov2", **VIT}
    model = moezoo.create_model("entity_moe/hf:a/b", backbone_args=dropped, drop_path_rate=0.3, **SLIM)
    assert model.model.config.drop_path_rate == 0.3


def test_head_and_checkpointing_are_timms_words():
    args = {"model_type": "vit", **VIT}
    model = moezoo.create_model("entity_moe/hf:a/b.all", backbone_args=args, num_classes=3, **SLIM)
    model.reset_classifier(7)
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 7)
    for adapter in adapters_of(model).values():
        torch.nn.init.normal_(adapter.ffn.fc2.weight)
        adapter.ffn.drop1.p = adapter.ffn.drop2.p = adapter.attn.proj_drop.p = adapter.moe.experts.dropout = 0.0
    model.eval().train()
    loss = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        (model(images).sum() + moezoo.aux_loss(model)).backward()
        loss.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(loss[0]) == len(loss[1])
    for a, b in zip(*loss, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_sam_by_its_hub_name_is_the_preset():
    assert moezoo.model_config("entity_moe/hf:facebook/sam-vit-base") == moezoo.model_config("entity_moe/sam_vit_base")
    small = moezoo.create_model(
        "entity_moe/hf:someone/sam", backbone_args={"model_type": "sam", **SAM}, num_classes=0, **SLIM
    )
    assert small.vision_encoder.entity_moe_config["base_model"] == "someone/sam"


@pytest.mark.parametrize(
    "kind",
    [
        "sam2",
        "sam3",
        "sam_vision",
        "dinov2_with_registers",
        "dinov3_convnext",
        "beit",
        "swin",
        "resnet",
        "hiera",
        "vitdet",
        "ijepa",
    ],
)
def test_every_other_encoder_comes_by_name_with_its_weights(kind, hub, tmp_path):
    plain = publish(hub, f"someone/{kind}", randomised(MAKERS[kind]()), tmp_path / kind)
    model = moezoo.create_model(
        f"entity_moe/hf:someone/{kind}", pretrained=True, cache_dir=tmp_path / "c", **SLIM
    ).eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert torch.equal(model.forward_features(images), plain(pixel_values=images).last_hidden_state)
    assert model(images).shape == (2, model.num_features)
    assert len(adapters_of(model)) >= 1
