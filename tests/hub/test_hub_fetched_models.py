"""Models and backbones that come from the Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import moezoo
from moezoo.errors import ConfigError, WeightsUnavailable
from moezoo.hub.backbone import backbone_file
from moezoo.hub.stored import read_stored


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def publish(hub, folder, **kwargs) -> str:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return hub.put("user/digits", files, lfs=("model.safetensors",), **kwargs)


def test_a_saved_model_is_created_from_the_hub(hub, saved, cache):
    commit = publish(hub, saved)
    local = moezoo.create_model(f"local-dir:{saved}", pretrained=True)
    for name in ("hf-hub:user/digits", f"hf-hub:user/digits@{commit}", "hf-hub:user/digits@main"):
        model = moezoo.create_model(name, pretrained=True, cache_dir=cache)
        assert torch.equal(model.head.weight, local.head.weight)
    assert model.label_names == local.label_names


def test_the_weights_are_not_fetched_before_they_are_asked_for(hub, saved, cache):
    publish(hub, saved)
    stored = read_stored("hf-hub:user/digits", cache_dir=cache)
    assert not any("model.safetensors" in place for _, place, _ in hub.requests)
    assert hashlib.sha256(stored.weights_path().read_bytes()).hexdigest() == stored.weights_sha256


def test_weights_come_from_the_commit_of_the_configuration(hub, saved, cache):
    publish(hub, saved)
    stored = read_stored("hf-hub:user/digits", cache_dir=cache)
    hub.put("user/digits", {"config.json": b"{}", "model.safetensors": b"other"})
    assert hashlib.sha256(stored.weights_path().read_bytes()).hexdigest() == stored.weights_sha256


def test_a_pickle_beside_missing_safetensors_is_never_fetched(hub, saved, cache):
    hub.put("user/digits", {"config.json": (saved / "config.json").read_bytes(), "pytorch_model.bin": b"evil"})
    with pytest.raises(WeightsUnavailable, match=r"model\.safetensors"):
        moezoo.create_model("hf-hub:user/digits", pretrained=True, cache_dir=cache)
    assert not any(".bin" in place for _, place, _ in hub.requests)


def test_a_huge_config_json_is_not_downloaded(hub, saved, cache):
    hub.put("user/digits", {"config.json": b" " * 2_000_000})
    with pytest.raises(WeightsUnavailable, match="2,000,000 bytes"):
        read_stored("hf-hub:user/digits", cache_dir=cache)
    assert hub.count("GET") == 0


def test_a_hub_model_of_another_library_is_named(hub, cache):
    hub.put("user/digits", {"config.json": json.dumps({"architecture": "resnet18"}).encode()})
    with pytest.raises(ConfigError, match="looks like a timm model"):
        read_stored("hf-hub:user/digits", cache_dir=cache)


def test_a_backbone_comes_from_the_hub_at_its_revision(hub, cache):
    first = hub.put("timm/net", {"model.safetensors": b"one"})
    hub.put("timm/net", {"model.safetensors": b"two"})
    assert backbone_file({"hf_hub_id": "timm/net"}, cache_dir=cache).read_bytes() == b"two"
    assert backbone_file({"hf_hub_id": f"timm/net@{first}"}, cache_dir=cache).read_bytes() == b"one"
    hub.put("timm/other", {"w.safetensors": b"three"})
    cfg = {"hf_hub_id": "timm/other", "hf_hub_filename": "w.safetensors"}
    assert backbone_file(cfg, cache_dir=cache).read_bytes() == b"three"


def test_backbones_without_a_safetensors_file_are_left_to_timm_and_without_weights_are_an_error(hub):
    for cfg in (
        {"url": "https://example.com/w.npz"},
        {"file": "w.npz", "hf_hub_id": "timm/net"},
        {"hf_hub_id": "timm/net", "hf_hub_filename": "open_clip_pytorch_model.bin"},
    ):
        assert backbone_file(cfg) is None
    with pytest.raises(WeightsUnavailable, match=r"no pretrained weights for 'net\.tag'"):
        backbone_file({"architecture": "net", "tag": "tag"})
    assert hub.requests == []


def test_the_configurations_of_timm_itself_are_understood(hub, cache):
    import timm

    hub.put("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", {"model.safetensors": b"vit"})
    cfg = timm.get_pretrained_cfg("vit_small_patch16_224")
    assert backbone_file(cfg, cache_dir=cache).read_bytes() == b"vit"
    assert backbone_file(cfg.to_dict(), cache_dir=cache).read_bytes() == b"vit"
