"""``include_backbone=False``: the MoE and the head travel, the backbone is fetched from where it is published."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch
from safetensors.torch import load_file, save

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.data.text import train_bpe
from moezoo.errors import HubUnavailable, InputError, WeightsMismatch
from moezoo.hub.schema import INDEX_NAME

TOKEN = "hf_writerWRITERwriter"
TIMM = "timm/test_vit2.r160_in1k"
NAME = "entity_moe/test_vit2"
SLIM = {"expert_dim": 8, "mlp_ratio": 0.25, "num_experts": 2, "num_experts_shared": 1, "num_classes": 5, "img_size": 32}


@pytest.fixture
def published(hub):
    torch.manual_seed(4)
    weights = save(timm.create_model("test_vit2").state_dict())
    hub.commit = hub.put(TIMM, {"model.safetensors": weights}, lfs=("model.safetensors",))
    hub.users[TOKEN] = "user"
    return hub


@pytest.fixture
def trained(published, tmp_path):
    """Pretrained backbone, frozen; adapters and head moved as training moves them."""
    model = moezoo.create_model(NAME, pretrained=True, cache_dir=tmp_path / "cache", **SLIM)
    moezoo.freeze_backbone(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_a_repository_without_the_backbone_rebuilds_the_model(published, trained, tmp_path):
    name = moezoo.push_to_hub(
        trained, "user/adapter", token=TOKEN, include_backbone=False, cache_dir=tmp_path / "cache"
    )
    files = published.files("user/adapter")
    content = json.loads(files["config.json"])
    assert (content["backbone"]["id"], content["backbone"]["revision"]) == (TIMM, published.commit)
    assert content["config"]["backbone_tag"] == "r160_in1k"
    (tmp_path / "f.safetensors").write_bytes(files["model.safetensors"])
    kept = load_file(tmp_path / "f.safetensors")
    added = tuple(adapters_of(trained))
    assert set(kept) == {key for key in trained.state_dict() if key.startswith((*added, "head."))}
    card = files["README.md"].decode()
    assert f"base_model: {TIMM}" in card
    assert f"`{TIMM}` at revision `{published.commit}`" in card
    # The published backbone moves on; what was pushed stays with the revision it was trained on.
    published.put(TIMM, {"model.safetensors": save(timm.create_model("test_vit2").state_dict())})
    images = torch.randn(2, 3, 32, 32)
    back = moezoo.create_model(name, pretrained=True, cache_dir=tmp_path / "other").eval()
    assert torch.equal(back(images), trained(images))
    assert back.weights_origin == name
    # Another head, and saved again without its backbone: both know where the backbone is.
    other = moezoo.create_model(name, pretrained=True, num_classes=2, cache_dir=tmp_path / "other").eval()
    assert torch.equal(other.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    assert other(images).shape == (2, 2)


def test_shards_and_the_whole_of_it_still_fit(trained, tmp_path):
    where = {"include_backbone": False, "cache_dir": tmp_path / "cache"}
    trained.tokenizer = train_bpe(["a photo"], vocab_size=300)
    folder = moezoo.save_pretrained(trained, tmp_path / "part", max_shard_size="10KB", **where)
    assert (folder / INDEX_NAME).exists()
    images = torch.randn(2, 3, 32, 32)
    back = moezoo.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=tmp_path / "cache").eval()
    assert torch.equal(back(images), trained(images))
    assert back.tokenizer == trained.tokenizer
    moezoo.save_pretrained(back, folder)
    assert json.loads((folder / "config.json").read_text())["backbone"] is None
    assert torch.equal(moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()(images), trained(images))


def test_a_backbone_that_moved_or_was_never_published_is_refused(published, trained, tmp_path):
    where = {"include_backbone": False, "cache_dir": tmp_path / "cache"}
    with torch.no_grad():
        trained.blocks[0].attn.qkv.weight[0, 0] += 1e-6
    with pytest.raises(InputError, match=r"1 tensors of the backbone .*test_vit2.*: blocks\.0\.attn\.qkv\.weight"):
        moezoo.save_pretrained(trained, tmp_path / "a", **where)
    fresh = moezoo.create_model(NAME, **SLIM)
    with pytest.raises(InputError, match="are not those published"):
        moezoo.save_pretrained(fresh, tmp_path / "a", **where)
    with pytest.raises(InputError, match="no published source"):
        moezoo.save_pretrained(moezoo.create_model("entity_moe/digits"), tmp_path / "a", **where)
    published.reset()
    with pytest.raises(HubUnavailable, match="no such repository"):
        moezoo.save_pretrained(fresh, tmp_path / "a", include_backbone=False, cache_dir=tmp_path / "empty")
    assert not (tmp_path / "a").exists()


def test_another_backbone_under_the_same_name_is_noticed(published, trained, tmp_path, caplog):
    folder = moezoo.save_pretrained(trained, tmp_path / "part", include_backbone=False, cache_dir=tmp_path / "cache")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    changed = save(timm.create_model("test_vit2").state_dict())
    content["backbone"]["revision"] = published.put(TIMM, {"model.safetensors": changed})
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsMismatch, match=f"published as '{TIMM}' is not the one"):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=tmp_path / "cache")
    content["backbone"] |= {"revision": published.commit, "tensors_sha256": "0" * 64}
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "moezoo"):
        back = moezoo.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=tmp_path / "cache")
    assert "prepared otherwise here" in caplog.text
    assert torch.equal(back.head.weight, trained.head.weight)
    published.reset()
    with pytest.raises(HubUnavailable, match="test_vit2"):
        moezoo.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=tmp_path / "empty")
    assert moezoo.create_model(f"local-dir:{folder}").weights_origin == "fresh"


@pytest.mark.parametrize("kind", ["sam", "dinov2"])
def test_a_backbone_of_transformers_is_fetched_at_its_commit(kind, hub, tmp_path):
    from transformers_models import MAKERS

    def put(model):
        model.save_pretrained(tmp_path / "published")
        files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
        return hub.put(f"someone/{kind}", files, lfs=("model.safetensors",))

    torch.manual_seed(4)
    commit = put(MAKERS[kind]())
    slim = {"expert_dim": 8, "mlp_ratio": 0.25, "num_experts": 2, "num_classes": 0 if kind == "sam" else 3}
    name, cache = f"entity_moe/hf:someone/{kind}", tmp_path / "cache"
    model = moezoo.create_model(name, pretrained=True, cache_dir=cache, **slim).eval()
    with torch.no_grad():
        for adapter in adapters_of(model).values():
            torch.nn.init.normal_(adapter.ffn.fc2.weight)
    folder = moezoo.save_pretrained(model, tmp_path / "part", include_backbone=False, cache_dir=cache)
    content = json.loads((folder / "config.json").read_text())
    assert (content["backbone"]["id"], content["backbone"]["revision"]) == (f"someone/{kind}", commit)
    assert len(load_file(folder / "model.safetensors")) < len(model.state_dict()) / 2
    put(MAKERS[kind]())
    back = moezoo.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=tmp_path / "other").eval()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())
